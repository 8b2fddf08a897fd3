package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// Report is everything that one run has measured.
type Report struct {
	Date      time.Time         `json:"date"`
	Took      string            `json:"took"`
	Quick     bool              `json:"quick"` // few rounds: shows that the harness works, not what is fast
	Host      Host              `json:"host"`
	Programs  []Program         `json:"programs"`
	Baselines map[string]string `json:"baselines"` // of each section: whom the others are compared with
	Rows      []*Row            `json:"rows"`
	Targets   []Verdict         `json:"targets"`
	Notes     []string          `json:"notes,omitempty"` // what was not measured, and why
}

// Row is one quantity of one subject doing one kind of work.
type Row struct {
	Section  string   `json:"section"`
	Work     string   `json:"work"`
	Subject  string   `json:"subject"`
	Quantity Quantity `json:"quantity"`
	Unit     string   `json:"unit"`
	Spread

	samples []float64
}

// Quantity is what is measured.
type Quantity string

// The quantities. Less is better, but for Rate.
const (
	Wall       Quantity = "wall"
	CPU        Quantity = "CPU"
	Peak       Quantity = "peak RSS"
	Latency    Quantity = "latency"
	Rate       Quantity = "rate"
	CPUPerGiB  Quantity = "CPU per GiB"
	PSS        Quantity = "PSS"
	USS        Quantity = "USS"
	Threads    Quantity = "threads"
	LastTerm   Quantity = "last TERM after"
	EarlyKills Quantity = "early kills"

	Descriptors Quantity = "descriptors"
)

var units = map[Quantity]string{
	Wall: "ms", CPU: "ms", Peak: "MiB", Latency: "ms", Rate: "MiB/s", CPUPerGiB: "s",
	PSS: "KiB", USS: "KiB", Threads: "", LastTerm: "ms", EarlyKills: "", Descriptors: "",
}

// add takes samples of a row, which it makes if it is new.
func (r *Report) add(section, work, subject string, q Quantity, samples ...float64) {
	row := r.row(section, work, subject, q)
	if row == nil {
		row = &Row{Section: section, Work: work, Subject: subject, Quantity: q, Unit: units[q]}
		r.Rows = append(r.Rows, row)
	}
	row.samples = append(row.samples, samples...)
}

func (r *Report) row(section, work, subject string, q Quantity) *Row {
	at := slices.IndexFunc(r.Rows, func(row *Row) bool {
		return row.Section == section && row.Work == work && row.Subject == subject && row.Quantity == q
	})
	if at < 0 {
		return nil
	}
	return r.Rows[at]
}

// finish sums up.
func (r *Report) finish(targets []target) {
	for _, row := range r.Rows {
		row.Spread = spread(row.samples)
	}
	r.judge(targets)
}

func milliseconds(ns int64) float64 { return float64(ns) / 1e6 }

// Read reads the results of an earlier run, as WriteJSON wrote them.
func Read(file string) (*Report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(Report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}
