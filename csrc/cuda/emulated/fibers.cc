// Runs the threads of a block as fibers that give way at barriers. The order in which ready fibers run, and which warps
// are held back for a while, can be drawn from a seed: a kernel that lacks a barrier then gives other results.
#include <cuda_runtime.h>
#include <setjmp.h>
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
constexpr int HOLD_ROUNDS = 16;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

// A fiber is made once by makecontext and serves thread after thread; _setjmp and _longjmp, which ask nothing of the
// operating system, switch between them.
struct Fiber {
  std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
  ucontext_t start;
  jmp_buf resume;
  bool is_started = false;
  State state;
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<double> shared_memory;
std::vector<uint64_t> exchange;
const std::function<void()>* kernel_now;
jmp_buf scheduler;
int running;
std::mt19937_64 generator;
bool is_shuffled = false;

__attribute__((noinline)) void pause(State state) {
  Fiber& self = *fibers[running];
  self.state = state;
  if (!_setjmp(self.resume)) _longjmp(scheduler, 1);
}

void serve() {
  for (;;) {
    (*kernel_now)();
    pause(State::done);
  }
}

void make_fiber() {
  fibers.push_back(std::make_unique<Fiber>());
  Fiber& made = *fibers.back();
  getcontext(&made.start);
  made.start.uc_stack = {made.stack.get(), 0, STACK_BYTES};
  made.start.uc_link = nullptr;
  makecontext(&made.start, serve, 0);
}

// Run a fiber until it pauses.
__attribute__((noinline)) void resume(int index) {
  running = index;
  place.thread.x = index;
  if (_setjmp(scheduler)) return;
  Fiber& next = *fibers[index];
  if (next.is_started) _longjmp(next.resume, 1);
  next.is_started = true;
  setcontext(&next.start);
}

// Free fibers begin .. end when all of them that still run wait at the same barrier; false: one does not.
bool release(int begin, int end, State barrier) {
  int waiting = 0;
  for (int i = begin; i < end; ++i) {
    if (fibers[i]->state == barrier) {
      ++waiting;
    } else if (fibers[i]->state != State::done) {
      return false;
    }
  }
  for (int i = begin; i < end; ++i) {
    if (fibers[i]->state == barrier) fibers[i]->state = State::ready;
  }
  return waiting > 0;
}

// Run every ready fiber once, but those of warps that are held back; false when there was none.
bool run_ready(std::vector<int>& order) {
  static uint32_t held_warps = 0;
  if (!is_shuffled) {
    held_warps = 0;
  } else {
    std::shuffle(order.begin(), order.end(), generator);
    // Long enough for the others to get through a reduction.
    if (generator() % HOLD_ROUNDS == 0) held_warps = static_cast<uint32_t>(generator());
  }
  bool has_moved = false;
  for (int i : order) {
    if (fibers[i]->state != State::ready) continue;
    has_moved = true;
    if (!(held_warps >> i / LANES & 1)) resume(i);
  }
  return has_moved;
}

void run_block(int threads) {
  std::vector<int> order(threads);
  for (int i = 0; i < threads; ++i) {
    order[i] = i;
    fibers[i]->state = State::ready;
  }
  for (bool has_moved = true; has_moved;) {
    has_moved = run_ready(order);
    for (int i = 0; i < threads; i += LANES) {
      has_moved |= release(i, std::min(i + LANES, threads), State::at_warp_barrier);
    }
    has_moved |= release(0, threads, State::at_block_barrier);
  }
  for (int i = 0; i < threads; ++i) {
    if (fibers[i]->state == State::done) continue;
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
  while (static_cast<int>(fibers.size()) < threads) make_fiber();
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
extern "C" __attribute__((visibility("default"))) void acu_emulated_order(uint64_t seed) {
  emulated::is_shuffled = seed != 0;
  emulated::generator.seed(seed);
}
