// One thread of a team that works through a call together.
#pragma once
#include "kernels.h"

namespace ac {

struct Team {
  const Kernels& kernels;
  Share share;
  int64_t* bytes_read;  // of packed matrices, counted by the first thread

  void wait() const {
#pragma omp barrier
  }

  // This thread's share of a product; others may read it after `wait`.
  void multiply(const Product& product) const {
    if (share.index == 0) *bytes_read += product.weights->num_panels * product.weights->panel_bytes;
    kernels.multiply(product, share);
  }
};

}  // namespace ac
