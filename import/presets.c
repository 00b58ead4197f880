/* presets.c - how the published checkpoints want to be run. Source: each project's inference configuration.
 *
 * Steps are before the warp by `shift`: CausVid's 1000, 757, 522 are 1000, 280, 120 warped by 8; Krea's 1000, 937, 833, 625 are the
 * usual four warped by 5. `window` counts the chunk at hand and the sink, as local_attn_size does. */
#include "import/import.h"
#include <string.h>

#define FOUR {1000, 750, 500, 250}, 4

static const sc_preset presets[] = {
    {"self-forcing", false, 21, 0, 5.0, FOUR, "self_forcing|self-forcing|selfforcing", NULL},
    {"longlive", false, 12, 3, 5.0, FOUR, "longlive", NULL},
    {"memflow", false, 12, 3, 5.0, FOUR, "memflow", "its memory bank is not made: sink and window instead"},
    {"causvid", false, 21, 0, 8.0, {1000, 280, 120}, 3, "causvid|streamdiffusionv2|wan_causal_dmd", NULL},
    {"rolling-forcing", false, 21, 3, 5.0, FOUR, "rolling_forcing|rolling-forcing", "chunks are made one after another, not in a rolling window of noise levels"},
    {"causal-forcing", false, 21, 0, 5.0, FOUR, "causal_forcing|causal-forcing", NULL},
    {"reward-forcing", false, 9, 3, 5.0, FOUR, "rewardforcing|reward_forcing|reward-forcing", "its sink is not averaged over past frames"},
    {"krea", false, 6, 0, 5.0, FOUR, "krea", "its first frame is not encoded anew"},
    {"sparse-forcing", true, 9, 0, 5.0, FOUR, "sparse_forcing|sparse-forcing|sparseforcing|pbsa", NULL},
};

const sc_preset *sc_preset_at(int index) { return index >= 0 && (size_t)index < sizeof presets / sizeof *presets ? &presets[index] : NULL; }

const sc_preset *sc_preset_find(const char *name) {
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (!strcmp(presets[i].name, name)) return &presets[i];
    return NULL;
}
