package shim

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/lifecycle"
)

// list is `list --stops`: the stops of this node, the last one at the end. Without
// --stops it is the wrapped runtime's.
func (c *call) list() int {
	var stops bool
	format := "table"
	args, ok := c.scan([]flag{{name: "stops", on: &stops}, {name: "format", short: "f", takesValue: true, text: &format}})
	if !stops {
		return c.become(c.argv)
	}
	if !ok || len(args) > 0 {
		return c.misused()
	}
	if format != "table" && format != "json" {
		return c.fail(errors.New("list: --format " + strconv.Quote(format) + ": want table or json"))
	}
	all, err := pastStops()
	if err != nil {
		return c.fail(errors.New("list stops: " + err.Error()))
	}
	if format == "json" {
		write(1, stopsAsJSON(all))
	} else {
		write(1, stopsAsTable(all))
	}
	return 0
}

// pastStop is a stop with its container.
type pastStop struct {
	history.Stop
	container history.Container
	at        time.Time // it was asked for
}

func pastStops() (all []pastStop, err error) {
	base, err := statedir.Base()
	if err != nil {
		return nil, err
	}
	containers, err := history.List(base)
	if err != nil {
		return nil, err
	}
	for _, container := range containers {
		j, err := container.Journal()
		if err != nil {
			continue // it is being made, or removed
		}
		for _, stop := range history.Stops(j) {
			all = append(all, pastStop{stop, container, container.Wall(j, stop.Asked)})
		}
	}
	slices.SortStableFunc(all, func(a, b pastStop) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	return all, nil
}

// outcome says in a word or two how the stop ended.
func (s *pastStop) outcome() string {
	switch {
	case s.Status != "":
		return s.Status + " " + s.Reason
	case s.Lapsed:
		return "no end in its grace period"
	case s.Ended != 0:
		return "ended"
	case s.container.Gone:
		return "unknown" // nobody of ours has seen its end
	}
	return "under way"
}

// took is the time from the request to init's end, or "" without one.
func (s *pastStop) took() string {
	if s.Ended == 0 {
		return ""
	}
	return seconds(lifecycle.Duration(s.Ended - s.Asked))
}

func seconds(d lifecycle.Duration) string {
	return strconv.FormatFloat(float64(d)/1e9, 'f', 1, 64) + "s"
}

func stopsAsTable(all []pastStop) []byte {
	rows := [][]string{{"ASKED", "CONTAINER", "BY", "REQUEST", "GRACE", "TOOK", "USED", "ENDED", "BREACHES"}}
	for i := range all {
		s := &all[i]
		name := s.container.ID[:min(len(s.container.ID), 12)]
		if called := s.container.Called(); len(called) > 0 {
			name = called[len(called)-1]
		}
		grace, used := "not heard", ""
		if g := s.Grace(); g != 0 {
			grace = seconds(g)
		}
		if share, ok := s.Used(); ok {
			used = strconv.Itoa(int(share*100)) + "%"
		}
		var breaches []string
		for _, b := range s.Breaches {
			breaches = append(breaches, b.What+" by "+b.Caller())
		}
		rows = append(rows, []string{
			s.at.UTC().Format("2006-01-02T15:04:05Z"), name, s.Caller(), s.Wish(), grace, s.took(), used, s.outcome(), strings.Join(breaches, ","),
		})
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	var out []byte
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-len(cell)+2)
		}
		out = append(append(out, strings.TrimRight(line, " ")...), '\n')
	}
	return out
}

func stopsAsJSON(all []pastStop) []byte {
	out := []byte{'['}
	for i := range all {
		s := &all[i]
		if i > 0 {
			out = append(out, ',')
		}
		member := func(key, value string) {
			if value != "" {
				out = appendJSON(append(appendJSON(append(out, ','), key), ':'), value)
			}
		}
		number := func(key string, value float64) {
			out = strconv.AppendFloat(append(appendJSON(append(out, ','), key), ':'), value, 'f', -1, 64)
		}
		out = appendJSON(append(out, `{"id":`...), s.container.ID)
		if called := s.container.Called(); len(called) > 0 {
			member("name", called[len(called)-1])
		}
		member("asked", s.at.UTC().Format(time.RFC3339Nano))
		member("by", s.Caller())
		member("request", s.Request)
		if g := s.Grace(); g != 0 {
			number("graceSeconds", float64(g)/1e9)
		}
		if s.Ended != 0 {
			number("tookSeconds", float64(s.Ended-s.Asked)/1e9)
		}
		if share, ok := s.Used(); ok {
			number("graceUsed", share)
		}
		member("status", s.Status)
		member("reason", s.Reason)
		out = strconv.AppendBool(append(out, `,"lapsed":`...), s.Lapsed)
		out = append(out, `,"breaches":[`...)
		for k, b := range s.Breaches {
			if k > 0 {
				out = append(out, ',')
			}
			out = appendJSON(append(out, `{"what":`...), b.What)
			member("by", b.Caller())
			member("line", b.Line)
			number("leftSeconds", float64(b.Left)/1e9)
			out = append(out, '}')
		}
		out = append(out, "]}"...)
	}
	return append(out, "]\n"...)
}
