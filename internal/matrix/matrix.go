// Package matrix stages races on many versions of conmon, crun and runc, and puts
// what became of them into one table: which version has which race, stock and
// with gracemon and gracerun over the same runtime.
package matrix

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/races"
	"gracerun.io/internal/testbed"
)

// Column is one stack of versions.
type Column struct {
	Title           string // where the programs come from: "Debian 12"
	Conmon, Runtime string // names and versions
	stock, ours     *testbed.Stack
}

// NewColumn is the column of a conmon and a runtime of that kind, "crun" or "runc". All
// three are paths, or names in PATH; gracemon and gracerun are in the directory programs.
func NewColumn(title, programs, conmon, kind, runtime string) *Column {
	c := &Column{Title: title, stock: testbed.StockOf(conmon, kind, runtime), ours: testbed.OursOver(programs, kind, runtime)}
	c.Conmon, c.Runtime = "no conmon", "no "+kind
	if c.stock.Missing == "" {
		c.Conmon, c.Runtime = c.stock.MonitorVersion(), c.stock.RuntimeVersion()
	}
	return c
}

// Row is a race on all stacks.
type Row struct {
	Scenario *races.Scenario
	Cells    []Cell // one for each column
}

// Cell is what a race did on one stack.
type Cell struct {
	Impossible  bool // the runtime cannot have the race
	cannot      bool // no stack can hold it off
	Stock, Ours *races.Verdict
}

// Matrix is the table.
type Matrix struct {
	Columns []*Column
	Rows    []Row

	// Where and when it was made.
	Kernel     string
	Cgroups    string
	Processors int
	Made       time.Time
	Took       time.Duration
	Ours       string // version of gracemon and gracerun
}

// New makes the table, with nothing in its cells.
func New(columns []*Column, scenarios []*races.Scenario) *Matrix {
	m := &Matrix{Columns: columns, Processors: runtime.NumCPU(), Made: time.Now(), Cgroups: "version 2"}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		m.Cgroups = "version 1, or hybrid; crun in a mount namespace with version 2"
	}
	for _, s := range scenarios {
		row := Row{Scenario: s, Cells: make([]Cell, len(columns))}
		for i, c := range columns {
			row.Cells[i].Impossible, row.Cells[i].cannot = !slices.Contains(s.Runtimes, c.stock.Kind), s.Ours.Cannot != ""
		}
		m.Rows = append(m.Rows, row)
	}
	return m
}

// work is one race on one stack, and the cells that it is for: ours is the same
// under every conmon.
type work struct {
	scenario *races.Scenario
	stack    *testbed.Stack
	policy   string
	verdicts []**races.Verdict
}

func (m *Matrix) works() (beside, alone []*work) {
	type key struct{ scenario, monitor, runtime, wrapped string }
	known := map[key]*work{}
	add := func(s *races.Scenario, stack *testbed.Stack, policy string, verdict **races.Verdict) {
		k := key{s.ID, stack.Monitor, stack.Runtime, stack.Wrapped}
		w := known[k]
		if w == nil {
			w = &work{scenario: s, stack: stack, policy: policy}
			known[k] = w
			if s.Drain > 0 { // it is about how fast things are
				alone = append(alone, w)
			} else {
				beside = append(beside, w)
			}
		}
		w.verdicts = append(w.verdicts, verdict)
	}
	for r := range m.Rows {
		row := &m.Rows[r]
		for i, c := range m.Columns {
			if cell := &row.Cells[i]; !cell.Impossible {
				add(row.Scenario, c.stock, "", &cell.Stock)
				add(row.Scenario, c.ours, row.Scenario.OurPolicy(), &cell.Ours)
			}
		}
	}
	return beside, alone
}

// Run stages everything, so many at a time, beneath dir, and tells how much is done.
func (m *Matrix) Run(dir string, parallel int, told func(done, all int)) {
	begin := time.Now()
	beside, alone := m.works()
	done, all := 0, len(beside)+len(alone)
	told(0, all)
	var mu sync.Mutex
	stage := func(w *work) {
		v := w.run(dir)
		mu.Lock()
		defer mu.Unlock()
		for _, verdict := range w.verdicts {
			*verdict = v
		}
		done++
		told(done, all)
	}
	free := make(chan struct{}, max(parallel, 1))
	var wait sync.WaitGroup
	for _, w := range beside {
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			stage(w)
		})
	}
	wait.Wait()
	for _, w := range alone {
		stage(w)
	}
	m.Took = time.Since(begin)
	for _, c := range m.Columns {
		if c.ours.Missing == "" {
			m.Ours = c.ours.MonitorVersion()
		}
	}
}

// stall is how long the machine may stand still for a scene, where times of a second
// are told apart, to be judged by.
const stall = 300 * time.Millisecond

// run stages it; anew, up to three times in all, where it could not be staged, or the
// outcome is not the expected one and the machine stood still meanwhile.
func (w *work) run(dir string) (v *races.Verdict) {
	for range 3 {
		longest := testbed.WatchStalls()
		v = w.scenario.On(w.stack, dir, w.policy)
		stood := longest() >= stall
		asExpected := v.Harmful() != w.stack.Ours()
		if w.stack.Missing != "" || v.Skipped == "" && (asExpected || !stood) {
			break
		}
	}
	return v
}

// Failed reports whether ours did harm that it should have held off.
func (m *Matrix) Failed() bool {
	for _, row := range m.Rows {
		for _, c := range row.Cells {
			if c.Ours != nil && c.Ours.Harmful() && !c.warned() {
				return true
			}
		}
	}
	return false
}

// WriteEvidence writes the timelines of all cells below dir, a directory for each column.
func (m *Matrix) WriteEvidence(dir string) error {
	for _, row := range m.Rows {
		for i, c := range row.Cells {
			if c.Impossible || c.Stock == nil || c.Ours == nil {
				continue
			}
			staged := &races.Staged{Scenario: row.Scenario, Stock: c.Stock, Ours: c.Ours}
			column := m.Columns[i]
			name := strings.NewReplacer(" ", "-", "/", "-", "+", "-").Replace(column.Conmon + "_" + column.Runtime)
			if _, err := staged.WriteEvidence(filepath.Join(dir, name), column.stock.Kind); err != nil {
				return err
			}
		}
	}
	return nil
}
