// Runs the threads of a block as fibers that give way at barriers. The order in which ready fibers run can be drawn
// from a seed: a kernel that lacks a barrier then gives other results, or none.
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

namespace emulated {

Place place;

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr int LANES = 32;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
  ucontext_t context;
  State state;
};

std::vector<Fiber> fibers;
std::vector<double> shared_memory;
std::vector<uint64_t> exchange;
const std::function<void()>* kernel_now;
ucontext_t scheduler;
int running;
std::mt19937_64 generator;
bool is_shuffled = false;

void enter() {
  (*kernel_now)();
  fibers[running].state = State::done;
  swapcontext(&fibers[running].context, &scheduler);
}

void pause(State state) {
  const int self = running;
  fibers[self].state = state;
  swapcontext(&fibers[self].context, &scheduler);
}

// Free fibers begin .. end when all of them that still run wait at the same barrier; false: one does not.
bool release(int begin, int end, State barrier) {
  int waiting = 0;
  for (int i = begin; i < end; ++i) {
    if (fibers[i].state == barrier) {
      ++waiting;
    } else if (fibers[i].state != State::done) {
      return false;
    }
  }
  for (int i = begin; i < end; ++i) {
    if (fibers[i].state == barrier) fibers[i].state = State::ready;
  }
  return waiting > 0;
}

void run_block(int threads) {
  std::vector<int> order(threads);
  for (int i = 0; i < threads; ++i) {
    order[i] = i;
    getcontext(&fibers[i].context);
    fibers[i].context.uc_stack = {fibers[i].stack.get(), 0, STACK_BYTES};
    fibers[i].context.uc_link = &scheduler;
    makecontext(&fibers[i].context, enter, 0);
    fibers[i].state = State::ready;
  }
  for (bool has_moved = true; has_moved;) {
    has_moved = false;
    if (is_shuffled) std::shuffle(order.begin(), order.end(), generator);
    for (int i : order) {
      if (fibers[i].state != State::ready) continue;
      running = i;
      place.thread.x = i;
      swapcontext(&scheduler, &fibers[i].context);
      has_moved = true;
    }
    for (int i = 0; i < threads; i += LANES) {
      has_moved |= release(i, std::min(i + LANES, threads), State::at_warp_barrier);
    }
    has_moved |= release(0, threads, State::at_block_barrier);
  }
  for (int i = 0; i < threads; ++i) {
    if (fibers[i].state == State::done) continue;
    std::fprintf(stderr, "emulated device: thread %d waits at a barrier that others do not reach\n", i);
    std::abort();
  }
}

}  // namespace

double* dynamic_shared() { return shared_memory.data(); }
void wait_for_block() { pause(State::at_block_barrier); }
void wait_for_warp() { pause(State::at_warp_barrier); }
void* exchange_slot(int lane) { return &exchange[running / LANES * LANES + lane]; }

void run(dim3 grid, int threads, size_t shared, const std::function<void()>& kernel) {
  if (static_cast<int>(fibers.size()) < threads) fibers.resize(threads);
  exchange.resize((threads + LANES - 1) / LANES * LANES);
  kernel_now = &kernel;
  place.grid = grid;
  place.threads = dim3(threads);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        place.block = dim3(x, y, z);
        shared_memory.assign((shared + 7) / 8, NAN);
        run_block(threads);
      }
    }
  }
}

}  // namespace emulated

// 0: threads run in ascending order; else in an order drawn from the seed.
extern "C" void acu_emulated_order(uint64_t seed) {
  emulated::is_shuffled = seed != 0;
  emulated::generator.seed(seed);
}
