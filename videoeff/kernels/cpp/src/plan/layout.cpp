// Where the fields of the interface's structures lie, so that whoever fills them from another language can compare.
#include <cstddef>
#include <cstring>

#include "videoeff.h"

#include "layout.h"  // made by build.py of videoeff.h: every structure and every field

extern "C" int64_t vf_layout(const char *what) {
  static const struct {
    const char *name;
    size_t value;
  } places[] = {
#define VF_STRUCTURE(structure) {#structure, sizeof(structure)},
#define VF_FIELD(structure, field) {#structure "." #field, offsetof(structure, field)},
      VF_STRUCTURES VF_FIELDS
#undef VF_STRUCTURE
#undef VF_FIELD
  };
  for (const auto &place : places)
    if (what && std::strcmp(what, place.name) == 0) return int64_t(place.value);
  return -1;
}
