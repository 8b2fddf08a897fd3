// Package metrics counts what became of the stops of a node, for Prometheus. It
// reads what gracerun and gracemon leave behind: state directories, and the
// journals of deleted containers. Neither of the two does anything for it.
//
// A container is counted once, after it was deleted. Counters go on where an
// earlier text says they were: a Collector that is asked again and again adds to
// its own, and one for a file begins with what the file has.
package metrics

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"

	"gracerun.io/signals/process"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/journal"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
	"gracerun.io/supervisor/recovery"
)

// Bounds are the upper bounds of the histogram of the share of a grace period that
// a container used. What ended after its deadline is above 1.
var Bounds = [...]float64{0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1}

// Names of the metric families, as they are written.
const (
	stopsName      = "gracerun_stops_total"
	usedName       = "gracerun_stop_grace_used_ratio"
	breachesName   = "gracerun_breaches_total"
	restartsName   = "gracerun_supervisor_restarts_total"
	countedName    = "gracerun_containers_counted_total"
	containersName = "gracerun_containers"
	deafName       = "gracerun_containers_deaf"
	replacedName   = "gracerun_containers_supervisor_restarts"
	lastName       = "gracerun_last_counted_timestamp_seconds"
	logName        = "gracerun_log_bytes_total"
	lostName       = "gracerun_log_lost_bytes_total"
	logThereName   = "gracerun_containers_log_bytes"
	lostThereName  = "gracerun_containers_log_lost_bytes"
)

// A Collector keeps the counters of one state base. It is not safe for use by
// several goroutines at once.
type Collector struct {
	base     string
	counters map[series]float64
	buckets  [len(Bounds) + 1]float64 // not cumulative
	sum      float64
	last     time.Time // deletion of the last container that was counted
}

// unlabelled are the counters without labels, which are there from the beginning.
var unlabelled = []string{restartsName, countedName, logName, lostName}

// series is a counter: the family, and its labels as they are written.
type series struct{ name, labels string }

// New makes a collector for a state base.
func New(base string) *Collector {
	return &Collector{base: base, counters: map[series]float64{}}
}

// Collect counts what was deleted since the last time, and gives all families.
func (c *Collector) Collect() ([]*dto.MetricFamily, error) {
	all, err := history.List(c.base)
	if err != nil {
		return nil, err
	}
	now := present{policies: map[string]float64{}}
	for i := range all {
		container := &all[i]
		if container.Gone {
			if deleted := container.Deleted(); deleted.After(c.last) {
				c.count(container)
				c.last = deleted
			}
			continue
		}
		j, _ := container.Journal() // its supervisor may be between two files, or it has none
		now.policies[policyOf(container, j)]++
		if isDeaf(container) {
			now.deaf++
		}
		log, restarts := left(container)
		now.log += float64(log.Written)
		now.lost += float64(log.Lost)
		now.restarts += float64(restarts)
	}
	return c.families(&now), nil
}

// present is what is true of the containers that are there.
type present struct {
	policies                  map[string]float64 // how many there are
	deaf, log, lost, restarts float64
}

// left gives the totals of a container's log, and how often its supervisor was
// replaced, as far as that is noted: a deleted container has no notes any more.
func left(c *history.Container) (t spool.Totals, restarts uint64) {
	dir, err := unix.Open(c.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return t, 0
	}
	defer unix.Close(dir)
	t, _ = spool.ReadTotals(dir) // no log, or one that an older gracemon has kept no totals of
	if notes, err := recovery.OpenNotes(dir); err == nil {
		restarts = notes.Generation()
		notes.Close()
	}
	return t, restarts
}

// policyOf gives the policy that the journal names. The record has one that older
// versions know in its place.
func policyOf(c *history.Container, j *journal.Journal) string {
	switch {
	case j != nil:
		return j.Config.Policy.String()
	case c.Record != nil:
		return c.Record.Policy
	}
	return "unknown"
}

// isDeaf tells of a container whose init will not hear its stop signal.
func isDeaf(c *history.Container) bool {
	if c.Record == nil {
		return false
	}
	id, err := process.ParseIdentity(c.Record.Init)
	if err != nil {
		return false
	}
	p, err := process.OpenVerified(id)
	if err != nil {
		return false
	}
	defer p.Close()
	d, err := process.ReadDispositions(id.Pid)
	if err != nil {
		return false
	}
	hears, _ := d.Hears(c.Record.StopSignal)
	return !hears
}

// count adds a container that is gone.
func (c *Collector) count(container *history.Container) {
	c.add(countedName)
	log, _ := left(container)
	c.counters[series{logName, ""}] += float64(log.Written)
	c.counters[series{lostName, ""}] += float64(log.Lost)
	j, err := container.Journal()
	if err != nil {
		return
	}
	policy := policyOf(container, j)
	for i := range j.Records {
		if kind, _, _ := strings.Cut(j.Records[i].Event, " "); kind == lifecycle.Recovered.String() {
			c.add(restartsName)
		}
	}
	for _, stop := range history.Stops(j) {
		outcome := stop.Reason
		switch {
		case stop.Lapsed:
			outcome = "lapsed"
		case outcome == "":
			outcome = "unknown"
		}
		c.add(stopsName, "outcome", outcome, "policy", policy)
		if share, ok := stop.Used(); ok {
			bucket, _ := slices.BinarySearch(Bounds[:], share)
			c.buckets[bucket]++
			c.sum += share
		}
		for _, b := range stop.Breaches {
			c.add(breachesName, "breach", b.What, "caller", b.Caller(), "policy", policy)
		}
	}
}

// add adds one to a counter with these labels, names in alphabetical order.
func (c *Collector) add(name string, labels ...string) {
	var b strings.Builder
	for i := 0; i < len(labels); i += 2 {
		fmt.Fprintf(&b, "%s=%q,", labels[i], labels[i+1])
	}
	c.counters[series{name, b.String()}]++
}

// --- families

func (c *Collector) families(now *present) []*dto.MetricFamily {
	families := []*dto.MetricFamily{
		family(stopsName, "Stops of deleted containers by outcome and policy; lapsed is a bare stop signal whose window nobody ended.", dto.MetricType_COUNTER),
		family(breachesName, "Signals that a grace period should have been spared, by kind, program of the caller and policy.", dto.MetricType_COUNTER),
		family(restartsName, "Supervisors that died or were upgraded, and went on in another process.", dto.MetricType_COUNTER),
		family(countedName, "Deleted containers that are in these counters.", dto.MetricType_COUNTER),
		family(logName, "Bytes that deleted containers have in their log files, as written.", dto.MetricType_COUNTER),
		family(lostName, "Bytes of output that the logs of deleted containers never had.", dto.MetricType_COUNTER),
	}
	sorted := slices.SortedFunc(maps.Keys(c.counters), func(a, b series) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.labels, b.labels))
	})
	for _, f := range families {
		for _, s := range sorted {
			if s.name == f.GetName() {
				f.Metric = append(f.Metric, &dto.Metric{Label: pairs(s.labels), Counter: &dto.Counter{Value: ptr(c.counters[s])}})
			}
		}
		if f.Metric == nil && slices.Contains(unlabelled, f.GetName()) {
			f.Metric = []*dto.Metric{{Counter: &dto.Counter{Value: ptr(0.0)}}}
		}
	}
	used := family(usedName, "Share of the grace period that passed before the container ended.", dto.MetricType_HISTOGRAM)
	used.Metric = []*dto.Metric{{Histogram: c.histogram()}}
	containers := family(containersName, "Containers that are there, by policy.", dto.MetricType_GAUGE)
	for _, policy := range slices.Sorted(maps.Keys(now.policies)) {
		containers.Metric = append(containers.Metric, &dto.Metric{Label: []*dto.LabelPair{{Name: ptr("policy"), Value: ptr(policy)}}, Gauge: &dto.Gauge{Value: ptr(now.policies[policy])}})
	}
	seconds := 0.0
	if !c.last.IsZero() {
		seconds = float64(c.last.UnixMicro()) / 1e6
	}
	families = append(families, used, containers,
		gauge(deafName, "Containers that are there and whose init will not hear its stop signal.", now.deaf),
		gauge(replacedName, "Supervisors that died or were upgraded, of the containers that are there.", now.restarts),
		gauge(logThereName, "Bytes that the containers that are there have in their log files, as written.", now.log),
		gauge(lostThereName, "Bytes of output that the logs of the containers that are there will never have.", now.lost),
		gauge(lastName, "Deletion of the last container that is in these counters.", seconds))
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return f.Metric == nil })
}

func family(name, help string, kind dto.MetricType) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Help: &help, Type: &kind}
}

func gauge(name, help string, value float64) *dto.MetricFamily {
	f := family(name, help, dto.MetricType_GAUGE)
	f.Metric = []*dto.Metric{{Gauge: &dto.Gauge{Value: &value}}}
	return f
}

func (c *Collector) histogram() *dto.Histogram {
	h := &dto.Histogram{SampleSum: ptr(c.sum)}
	total := 0.0
	for i, n := range c.buckets {
		total += n
		bound := math.Inf(1)
		if i < len(Bounds) {
			bound = Bounds[i]
		}
		h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: &bound, CumulativeCount: ptr(uint64(total))})
	}
	h.SampleCount = ptr(uint64(total))
	return h
}

func ptr[T any](value T) *T { return &value }

// pairs takes labels apart that add has put together.
func pairs(labels string) (all []*dto.LabelPair) {
	for labels != "" {
		name, rest, _ := strings.Cut(labels, "=")
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return all
		}
		value, _ := strconv.Unquote(quoted)
		all = append(all, &dto.LabelPair{Name: &name, Value: &value})
		labels = strings.TrimPrefix(rest[len(quoted):], ",")
	}
	return all
}

// --- texts

// Formats of Write.
var (
	// Text is Prometheus' text format, which node_exporter's textfile collector reads.
	Text = expfmt.NewFormat(expfmt.TypeTextPlain)
	// OpenMetrics is the format of that name, version 1.0.0.
	OpenMetrics = expfmt.NewFormat(expfmt.TypeOpenMetrics)
)

// Write writes families.
func Write(out io.Writer, format expfmt.Format, families []*dto.MetricFamily) error {
	e := expfmt.NewEncoder(out, format)
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			return err
		}
	}
	if c, ok := e.(expfmt.Closer); ok {
		return c.Close()
	}
	return nil
}

// Resume goes on where a text in format Text ends.
func (c *Collector) Resume(text io.Reader) error {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return err
	}
	last := families[lastName]
	if last == nil || len(last.Metric) != 1 {
		return errors.New("it has no " + lastName + ": gracelab did not write it")
	}
	if seconds := last.Metric[0].GetGauge().GetValue(); seconds != 0 {
		c.last = time.UnixMicro(int64(math.Round(seconds * 1e6)))
	}
	for _, name := range append([]string{stopsName, breachesName}, unlabelled...) {
		for _, m := range families[name].GetMetric() {
			var b strings.Builder
			for _, l := range m.Label {
				fmt.Fprintf(&b, "%s=%q,", l.GetName(), l.GetValue())
			}
			c.counters[series{name, b.String()}] = m.GetCounter().GetValue()
		}
	}
	for _, m := range families[usedName].GetMetric() {
		h := m.GetHistogram()
		c.sum = h.GetSampleSum()
		before := 0.0
		for _, bucket := range h.Bucket {
			i, _ := slices.BinarySearch(Bounds[:], bucket.GetUpperBound())
			c.buckets[i] += float64(bucket.GetCumulativeCount()) - before
			before = float64(bucket.GetCumulativeCount())
		}
	}
	return nil
}
