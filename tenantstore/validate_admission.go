package tenantstore

// maxAdmission is the greatest bound of a limit.
const maxAdmission = 1_000_000

func (v *validation) admission(a Admission) {
	oneOf(v, "spec.admission.mode", a.Mode, "", AdmissionAdaptive, AdmissionOff)
	between(v, "spec.admission.min", a.Min, 0, maxAdmission)
	between(v, "spec.admission.max", a.Max, 0, maxAdmission)
	if a.Max > 0 && a.Min > a.Max {
		v.add("spec.admission.min", "must be at most max, which is %d (got %d)", a.Max, a.Min)
	}
}
