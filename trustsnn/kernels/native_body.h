// The kernels for vectors of LANES floats. Included by native.cpp once for each instruction set, each in its own namespace.

#include "native_vectors.h"
#include "native_lif.h"
#include "native_convolution.h"
#include "native_half.h"
#include "native_winograd.h"
#include "native_gradients.h"
