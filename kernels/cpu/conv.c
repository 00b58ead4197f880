/* conv.c - the decoder's convolutions on all cores. */
#include "kernels/cpu/conv.h"

sc_status sc_fast_filter_create(sc_device *dev, sc_filter **out, const sc_filter_desc *d, sc_error *err) { return sc_twin_filter_create(dev, out, d, err); }
void sc_fast_filter_destroy(sc_device *dev, sc_filter *f) { sc_twin_filter_destroy(dev, f); }
sc_status sc_fast_conv(sc_device *dev, const sc_conv_args *a, sc_error *err) { return sc_twin_conv(dev, a, err); }
sc_status sc_fast_grow(sc_device *dev, const sc_grow_args *a, sc_error *err) { return sc_twin_grow(dev, a, err); }
sc_status sc_fast_pool(sc_device *dev, const sc_pool_args *a, sc_error *err) { return sc_twin_pool(dev, a, err); }
