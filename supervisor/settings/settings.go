// Package settings reads the administrator's configuration file and the annotations
// that it allows, and makes the machine's Config of both. gracerun and gracemon both
// read them here, so that both do the same.
//
// `gracerun kill` and the resident supervisor pay for every import of this
// package: it keeps away from os and fmt.
package settings

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/wholefile"
	"gracerun.io/signals"
	"gracerun.io/supervisor/history"
	"gracerun.io/supervisor/lifecycle"
)

// The configuration file need not exist. Variable is the environment variable that
// names another one, which is for tests and for users without a say in /etc.
const (
	DefaultPath = "/etc/gracerun/config.toml"
	Variable    = "GRACERUN_CONFIG"
)

// Path gives the path of the configuration file.
func Path() string {
	if path, _ := unix.Getenv(Variable); path != "" {
		return path
	}
	return DefaultPath
}

// Settings is what the configuration file says.
type Settings struct {
	Runtime string // path or name of the runtime to wrap, "" for what is installed
	Stop    Stop   // for containers whose annotations don't say
	Scope   Scope

	// Heard are the annotations that are heard, Policies those that io.gracerun.policy
	// may ask for, MaxGrace is the longest grace period that an annotation can give.
	Heard    []string
	Policies []lifecycle.Policy
	MaxGrace time.Duration

	// History limits what is kept of containers that are gone.
	History history.Limits

	// FaultsByAnnotation: a container's annotation may carry a fault plan. Else
	// plans come from the environment only.
	FaultsByAnnotation bool
}

// Scope says what becomes of a container whose systemd scope is not as its
// annotations ask and can't be made to.
type Scope uint8

const (
	// WarnOfScope creates it and says so in a warning. It is the default: the
	// container does its work until the host is shut down; to refuse it would
	// make of a flaw at shutdown an outage now.
	WarnOfScope Scope = iota

	// RequireScope fails its create and leaves nothing of it.
	RequireScope

	// IgnoreScope does not touch nor look at scopes at all.
	IgnoreScope
)

var scopeNames = [...]string{WarnOfScope: "warn", RequireScope: "require", IgnoreScope: "ignore"}

// Defaults returns what holds where the file says nothing.
func Defaults() *Settings {
	return &Settings{
		Stop:     Stop{Signal: signals.TERM, Grace: 30 * time.Second, Policy: lifecycle.DefaultConfig().Policy},
		Heard:    slices.Clone(annotations[:]),
		Policies: []lifecycle.Policy{lifecycle.Observe, lifecycle.Delegate},
		MaxGrace: 24 * time.Hour,
		History:  history.Limits{Containers: 200, Bytes: 8 << 20},
	}
}

// Load reads the configuration file. With an error, which names file, line and key,
// come the settings all the same: those that could be read, and defaults. Whoever
// creates a container is to refuse then; one that exists is signalled and deleted.
func Load() (*Settings, error) {
	path := Path()
	text, err := wholefile.Read(unix.AT_FDCWD, path, 0, 1)
	if err == unix.ENOENT {
		return Defaults(), nil
	}
	if err != nil {
		return Defaults(), errors.New("read " + path + ": " + err.Error())
	}
	s, err := Parse(string(text))
	if err != nil {
		err = errors.New(path + ":" + err.Error())
	}
	return s, err
}

// Parse reads the text of a configuration file. The error is that of the first line
// that is wrong, and begins with its number; the settings are those of all others.
//
//	runtime = "/usr/bin/crun"
//	faults  = "environment"
//
//	[stop]
//	grace  = "30s"
//	policy = "delegate"
//
//	[annotations]
//	allowed   = ["io.gracerun.policy", "io.gracerun.grace"]
//	policies  = ["observe"]
//	max-grace = "24h"
//
//	[history]
//	containers = "200"
//	bytes      = "8M"
//
//	[systemd]
//	scope = "warn"
func Parse(text string) (*Settings, error) {
	s := Defaults()
	table, number := "", 0
	seen := map[string]bool{}
	var first error
	for line := range strings.Lines(text) {
		number++
		err := func() error {
			e, err := parseLine(strings.TrimRight(line, "\r\n"))
			if err != nil || e.key == "" {
				return err
			}
			name := table + e.key
			if e.table {
				table = e.key + "."
				name = "[" + e.key + "]"
			}
			if seen[name] {
				return errors.New(name + " is there twice")
			}
			seen[name] = true
			return s.set(name, e)
		}()
		if err != nil && first == nil {
			first = errors.New(strconv.Itoa(number) + ": " + err.Error())
		}
	}
	return s, first
}

// set takes a line. name is the key with its table, or the table in brackets.
func (s *Settings) set(name string, e entry) error {
	if e.table {
		switch e.key {
		case "stop", "annotations", "history", "systemd":
			return nil
		}
		return errors.New("unknown table " + name + ": want [stop], [annotations], [history] or [systemd]")
	}
	var err error
	wantsList := false
	switch name {
	case "runtime":
		s.Runtime = e.text
	case "faults":
		s.FaultsByAnnotation, err = parseFaults(e.text)
	case "stop.grace":
		err = into(&s.Stop.Grace, e.text, ParseGrace)
	case "stop.policy":
		err = into(&s.Stop.Policy, e.text, lifecycle.ParsePolicy)
	case "annotations.allowed":
		wantsList, err = true, s.setHeard(e.list)
	case "annotations.policies":
		wantsList, err = true, s.setPolicies(e.list)
	case "annotations.max-grace":
		err = into(&s.MaxGrace, e.text, ParseGrace)
	case "history.containers":
		err = into(&s.History.Containers, e.text, parseNumber)
	case "history.bytes":
		err = into(&s.History.Bytes, e.text, parseBytes)
	case "systemd.scope":
		err = into(&s.Scope, e.text, parseScope)
	default:
		return errors.New("unknown key " + name + ": want runtime, faults, stop.grace, stop.policy, " +
			"annotations.allowed, annotations.policies, annotations.max-grace, history.containers, history.bytes or systemd.scope")
	}
	switch {
	case wantsList && !e.isList:
		return errors.New(name + `: want a list, such as ["a", "b"]`)
	case !wantsList && e.isList:
		return errors.New(name + ": want one text in quotes, not a list")
	case err != nil && wantsList:
		return errors.New(name + ": " + err.Error())
	case err != nil:
		return errors.New(name + "=" + strconv.Quote(e.text) + ": " + err.Error())
	}
	return nil
}

// into sets what a text is parsed to, unless that fails.
func into[T any](to *T, text string, parse func(string) (T, error)) error {
	value, err := parse(text)
	if err == nil {
		*to = value
	}
	return err
}

func (s *Settings) setHeard(names []string) error {
	for _, name := range names {
		if !slices.Contains(annotations[:], name) {
			return errors.New("unknown annotation " + strconv.Quote(name) + ": want " + strings.Join(annotations[:], ", "))
		}
	}
	s.Heard = names
	return nil
}

func (s *Settings) setPolicies(names []string) error {
	var policies []lifecycle.Policy
	for _, name := range names {
		p, err := lifecycle.ParsePolicy(name)
		if err != nil {
			return err
		}
		policies = append(policies, p)
	}
	s.Policies = policies
	return nil
}

func parseFaults(text string) (byAnnotation bool, err error) {
	if text != "environment" && text != "annotations" {
		return false, errors.New("want environment or annotations")
	}
	return text == "annotations", nil
}

func parseScope(text string) (Scope, error) {
	for s, name := range scopeNames {
		if text == name {
			return Scope(s), nil
		}
	}
	return 0, errors.New("want " + scopeNames[0] + ", " + scopeNames[1] + " or " + scopeNames[2])
}

func parseNumber(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, errors.New("want a number, such as 200, or 0 for none")
	}
	return n, nil
}

// parseBytes reads a size as systemd writes sizes: bytes, or with K, M or G for
// powers of 1024 (systemd.syntax(7)).
func parseBytes(text string) (int64, error) {
	number, unit := text, int64(1)
	if n := len(text); n > 0 {
		switch text[n-1] {
		case 'K':
			number, unit = text[:n-1], 1<<10
		case 'M':
			number, unit = text[:n-1], 1<<20
		case 'G':
			number, unit = text[:n-1], 1<<30
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || int64(n) > (1<<62)/unit {
		return 0, errors.New("want bytes, such as 8M, 512K or 0 for none")
	}
	return int64(n) * unit, nil
}
