package tenantstore

import (
	"fmt"
	"slices"

	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Warnings is what is valid in objects and perhaps not meant: classes of a workload that match the same requests, of which the
// first counts.
func Warnings(objects map[Key]*Object) (list Problems) {
	for _, key := range keysOf(objects, KindWorkload) {
		classes := objects[key].Workload.Classes
		compiled := make([]authz.Class, len(classes))
		for i, c := range classes {
			compiled[i], _ = authz.NewClass(c.Name, c.Methods, c.Paths)
			first := slices.IndexFunc(compiled[:i], func(before authz.Class) bool { return before.Overlaps(&compiled[i]) })
			if first >= 0 && (classes[first].Name != c.Name || classes[first].Priority != c.Priority) {
				list = append(list, Problem{Object: key.String(), Path: fmt.Sprintf("spec.classes[%d]", i), Text: fmt.Sprintf(
					"matches requests that classes[%d] (%s) matches before it: those are %s, not %s", first, classes[first].Name, classes[first].Name, c.Name,
				)})
			}
		}
	}
	return list
}
