/* Which instruction set runs: chosen once, when the module loads. */
#include "native_internal.h"

const dec_isa *dec_active;
const dec_native *dec_native_active;

static const dec_isa *supported(int index) {
    const dec_isa *(*const known[])(void) = {dec_isa_avx512, dec_isa_avx2, dec_isa_neon, dec_isa_portable};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const dec_isa *isa = known[i]();
        if (isa && index-- == 0)
            return isa;
    }
    return NULL;
}

static const dec_native *supported_native(int index) {
    const dec_native *(*const known[])(void) = {dec_native_avx512vnni, dec_native_avx512,  dec_native_avxvnni,
                                                dec_native_avx2,       dec_native_neondot, dec_native_neon,
                                                dec_native_portable};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const dec_native *native = known[i]();
        if (native && index-- == 0)
            return native;
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
            const dec_native *native;
            for (int j = 0; (native = supported_native(j)); j++)
                if (native->isa == isa) {
                    dec_native_active = native;
                    break;
                }
            return 0;
        }
    return -1;
}

const char *dec_native_supported(int index) {
    const dec_native *native = supported_native(index);
    return native ? native->name : NULL;
}

const char *dec_native_name(void) {
    return dec_native_active ? dec_native_active->name : NULL;
}

int dec_use_native(const char *name) {
    const dec_native *native;
    for (int i = 0; (native = supported_native(i)); i++)
        if (strcmp(native->name, name) == 0) {
            dec_native_active = native;
            return 0;
        }
    return -1;
}
