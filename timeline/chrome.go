package timeline

import (
	"encoding/json"
	"io"
)

// Chrome writes the timeline in the Trace Event Format (JSON object format),
// which Perfetto and chrome://tracing open: a thread for each lane, instants
// for marks, a span for each grace period.
func (t *Timeline) Chrome(out io.Writer) error {
	type event struct {
		Name  string            `json:"name"`
		Cat   string            `json:"cat,omitempty"`
		Phase string            `json:"ph"`
		Micro float64           `json:"ts"`
		Dur   float64           `json:"dur,omitempty"`
		PID   int               `json:"pid"`
		TID   int               `json:"tid"`
		Scope string            `json:"s,omitempty"`
		Args  map[string]string `json:"args,omitempty"`
	}
	origin := t.origin()
	events := []event{{Name: "process_name", Phase: "M", PID: 1, Args: map[string]string{"name": t.Title}}}
	for lane := Lane(0); lane < lanes; lane++ {
		events = append(events, event{Name: "thread_name", Phase: "M", PID: 1, TID: int(lane) + 1,
			Args: map[string]string{"name": lane.String()}})
	}
	for _, g := range t.Grace {
		events = append(events, event{Name: "grace period", Cat: "grace", Phase: "X", PID: 1, TID: int(Container) + 1,
			Micro: float64(g.From-origin) / 1e3, Dur: float64(g.Deadline-g.From) / 1e3})
	}
	for _, m := range t.sorted() {
		events = append(events, event{Name: m.Text, Cat: m.Kind.String(), Phase: "i", Scope: "t",
			PID: 1, TID: int(m.Lane) + 1, Micro: float64(m.At-origin) / 1e3})
	}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e.Encode(map[string]any{"displayTimeUnit": "ms", "traceEvents": events})
}
