package policy

// Limits bound what one tenant may use in one cell, summed over that cell's sidecars. A zero field is
// "not said": it falls back to the tier's, then to [SafeLimits]. [Unlimited] is said with -1.
type Limits struct {
	RequestsPerSecond float64               `json:"requestsPerSecond,omitempty"` // sustained; 0.001 to 1e6, or -1
	Burst             int                   `json:"burst,omitempty"`             // requests at once; 1 to 1e6
	Concurrency       int                   `json:"concurrency,omitempty"`       // open requests; 1 to 1e6, or -1
	Classes           map[string]ClassLimit `json:"classes,omitempty"`           // by class of the Workload, e.g. "exports"
	RetryShare        float64               `json:"retryShare,omitempty"`        // repeats, as a share of first tries; 0.001 to 100, or -1; default 0.2
}

// ClassLimit bounds one class of requests (Workload.spec.classes) of one tenant.
type ClassLimit struct {
	RequestsPerSecond float64 `json:"requestsPerSecond,omitempty"`
	Burst             int     `json:"burst,omitempty"`
	Concurrency       int     `json:"concurrency,omitempty"`
}

// Unlimited is the value of a rate or concurrency that has no bound.
const Unlimited = -1

// ClassExports is the class of expensive exports that the safe defaults name.
const ClassExports = "exports"

// SafeLimits are those of a tenant whose configuration has not arrived (design, section 4).
func SafeLimits() Limits {
	return Limits{
		RequestsPerSecond: 10, Burst: 20, Concurrency: 10,
		Classes: map[string]ClassLimit{ClassExports: {Concurrency: 1}},
	}
}

// Over returns l with each field it does not say taken from base. Neither argument is changed.
func (l Limits) Over(base Limits) Limits {
	if l.RequestsPerSecond == 0 {
		l.RequestsPerSecond = base.RequestsPerSecond
	}
	if l.Burst == 0 {
		l.Burst = base.Burst
	}
	if l.Concurrency == 0 {
		l.Concurrency = base.Concurrency
	}
	if l.RetryShare == 0 {
		l.RetryShare = base.RetryShare
	}
	classes := make(map[string]ClassLimit, len(base.Classes)+len(l.Classes))
	for name, class := range base.Classes {
		classes[name] = class
	}
	for name, class := range l.Classes {
		under := classes[name]
		if class.RequestsPerSecond == 0 {
			class.RequestsPerSecond = under.RequestsPerSecond
		}
		if class.Burst == 0 {
			class.Burst = under.Burst
		}
		if class.Concurrency == 0 {
			class.Concurrency = under.Concurrency
		}
		classes[name] = class
	}
	if len(classes) == 0 {
		classes = nil
	}
	l.Classes = classes
	return l
}
