package timeline

import (
	"encoding/json"
	"io"
)

// Chrome writes timelines in the Trace Event Format (JSON object format), which
// Perfetto and chrome://tracing open: a process for each timeline, a thread for
// each lane, instants for marks, a span for each grace period. Every timeline
// begins at 0, so that two can be compared.
func Chrome(out io.Writer, timelines ...*Timeline) error {
	events := []chromeEvent{}
	for i, t := range timelines {
		events = t.appendChrome(events, i+1)
	}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e.Encode(map[string]any{"displayTimeUnit": "ms", "traceEvents": events})
}

type chromeEvent struct {
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

func (t *Timeline) appendChrome(events []chromeEvent, pid int) []chromeEvent {
	origin := t.origin()
	events = append(events, chromeEvent{Name: "process_name", Phase: "M", PID: pid, Args: map[string]string{"name": t.Title}})
	for lane := Lane(0); lane < lanes; lane++ {
		events = append(events, chromeEvent{Name: "thread_name", Phase: "M", PID: pid, TID: int(lane) + 1,
			Args: map[string]string{"name": lane.String()}})
	}
	for _, g := range t.Grace {
		events = append(events, chromeEvent{Name: "grace period", Cat: "grace", Phase: "X", PID: pid, TID: int(Container) + 1,
			Micro: float64(g.From-origin) / 1e3, Dur: float64(g.Deadline-g.From) / 1e3})
	}
	for _, m := range t.sorted() {
		events = append(events, chromeEvent{Name: m.Text, Cat: m.Kind.String(), Phase: "i", Scope: "t",
			PID: pid, TID: int(m.Lane) + 1, Micro: float64(m.At-origin) / 1e3})
	}
	return events
}
