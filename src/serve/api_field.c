/* SPDX-License-Identifier: Apache-2.0 */
/* Implements api_field.h. */
#include "serve/api_field.h"

#include <math.h>

#include "base/json.h"

json_t *api_field(const json_t *obj, const char *name) {
    json_t *v = json_object_get(obj, name);
    return json_is_null(v) ? NULL : v;
}

bool api_field_bool(bool *out, const json_t *obj, const char *name, struct api_error *e) {
    const json_t *v = api_field(obj, name);
    if (!v) return true;
    if (!json_is_boolean(v))
        return api_invalid(e, name, "%s: found %s, expected true or false", name, json_kind(v));
    *out = json_is_true(v);
    return true;
}

bool api_value_int(int64_t *out, const json_t *v, const char *where, int64_t min, int64_t max,
                   struct api_error *e) {
    int64_t i;
    if (json_is_integer(v)) {
        i = json_integer_value(v);
    } else {
        /* 2^53: above it a double no longer says which integer was meant */
        double d = json_is_real(v) ? json_real_value(v) : NAN;
        if (!(d == floor(d)) || fabs(d) > 9007199254740992.0)
            return api_invalid(e, where, "%s: found %s, expected an integer", where, json_kind(v));
        i = (int64_t)d;
    }
    if (i < min || i > max)
        return api_invalid(e, where, "%s: found %lld, expected %lld to %lld", where, (long long)i,
                           (long long)min, (long long)max);
    *out = i;
    return true;
}

bool api_field_int(int64_t *out, const json_t *obj, const char *name, int64_t min, int64_t max,
                   struct api_error *e) {
    const json_t *v = api_field(obj, name);
    return !v || api_value_int(out, v, name, min, max, e);
}

bool api_field_u32(uint32_t *out, const json_t *obj, const char *name, uint32_t min, uint32_t max,
                   struct api_error *e) {
    int64_t v = *out;
    const json_t *given = api_field(obj, name);
    if (given && !api_value_int(&v, given, name, min, max, e)) return false;
    *out = (uint32_t)v;
    return true;
}

bool api_field_float(float *out, const json_t *obj, const char *name, double min, double max,
                     struct api_error *e) {
    const json_t *v = api_field(obj, name);
    if (!v) return true;
    if (!json_is_number(v))
        return api_invalid(e, name, "%s: found %s, expected a number", name, json_kind(v));
    double d = json_number_value(v);
    if (!(d >= min && d <= max))
        return api_invalid(e, name, "%s: found %g, expected %g to %g", name, d, min, max);
    *out = (float)d;
    return true;
}
