// Large zeroed memory from the operating system, on huge pages where there are any.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <new>

namespace ac {

class Memory {
 public:
  Memory() = default;
  // Raises std::bad_alloc. Pages are taken when they are first touched.
  explicit Memory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      throw std::bad_alloc();
    }
#if defined(MADV_HUGEPAGE)
    madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Memory& operator=(Memory&& other) noexcept {
    release();
    data_ = other.data_;
    bytes_ = other.bytes_;
    other.data_ = nullptr;
    return *this;
  }
  ~Memory() { release(); }

  char* data() const { return static_cast<char*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void release() {
    if (data_) munmap(data_, bytes_);
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Hands out stretches of one memory. Without a base it only counts, so a layout is written once and run twice.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <class T>
  T* take(size_t count) {
    T* taken = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return taken;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace ac
