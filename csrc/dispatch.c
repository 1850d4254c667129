/* Which instruction set runs: chosen once, when the module loads. */
#include "internal.h"

const dec_isa *dec_active;

static const dec_isa *supported(int index) {
    const dec_isa *(*const known[])(void) = {dec_isa_avx512, dec_isa_avx2, dec_isa_neon, dec_isa_portable};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const dec_isa *isa = known[i]();
        if (isa && index-- == 0)
            return isa;
    }
    return NULL;
}

const char *dec_isa_supported(int index) {
    const dec_isa *isa = supported(index);
    return isa ? isa->name : NULL;
}

const char *dec_isa_name(void) {
    return dec_active ? dec_active->name : NULL;
}

int dec_use_isa(const char *name) {
    const dec_isa *isa;
    for (int i = 0; (isa = supported(i)); i++)
        if (!name || strcmp(isa->name, name) == 0) {
            dec_active = isa;
            return 0;
        }
    return -1;
}
