// Package plan reads fault plans as people write them: YAML, with errors that
// name the line. docs/fault-plans.md describes them.
package plan

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"gracerun.io/faults"
	"gracerun.io/signals"
)

// Parse reads a plan. Its errors begin with the line: "line 4: ...".
func Parse(text []byte) ([]faults.Rule, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(document.Content) == 0 {
		return nil, lineError(1, "the plan is empty: want a list named faults")
	}
	var list *yaml.Node
	err := members(document.Content[0], "the plan", func(key string, value *yaml.Node) error {
		if key != "faults" {
			return lineError(value.Line, "unknown key %q: want faults", key)
		}
		list = value
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0:
		return nil, lineError(document.Content[0].Line, "want a list named faults with at least one fault")
	}
	var rules []faults.Rule
	for _, node := range list.Content {
		r, err := rule(node)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// Compile gives the text that faults.Parse reads.
func Compile(rules []faults.Rule) string {
	texts := make([]string, len(rules))
	for i, r := range rules {
		texts[i] = r.String()
	}
	return strings.Join(texts, "; ")
}

func rule(node *yaml.Node) (faults.Rule, error) {
	r := faults.Rule{Probability: 1}
	err := members(node, "a fault", func(key string, value *yaml.Node) error {
		set, ok := keys[key]
		if !ok {
			return lineError(value.Line, "unknown key %q: want at, when, signal, do, delay, errno, skip, count, probability or seed", key)
		}
		if value.Kind != yaml.ScalarNode {
			return lineError(value.Line, "%s: want one value", key)
		}
		if err := set(&r, value.Value); err != nil {
			return lineError(value.Line, "%s: %v", key, err)
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	if err := r.Check(); err != nil {
		return r, lineError(node.Line, "%v", err)
	}
	return r, nil
}

// keys says how the value of each key is read.
var keys = map[string]func(*faults.Rule, string) error{
	"at": func(r *faults.Rule, v string) error {
		r.At = faults.Point(v)
		if known, _ := r.At.Can(faults.None); !known {
			return fmt.Errorf("unknown point %q; `gracelab plan --points` lists them", v)
		}
		return nil
	},
	"when": func(r *faults.Rule, v string) error {
		if v != "before" && v != "after" {
			return fmt.Errorf("want before or after, found %q", v)
		}
		r.After = v == "after"
		return nil
	},
	"signal": func(r *faults.Rule, v string) (err error) {
		r.Signal, err = signals.Parse(v)
		return err
	},
	"do": func(r *faults.Rule, v string) error {
		var ok bool
		if r.Do, ok = faults.ParseAction(v); !ok {
			return fmt.Errorf("unknown fault %q: want delay, drop, duplicate, error, crash, hang, stale or freeze", v)
		}
		return nil
	},
	"delay": func(r *faults.Rule, v string) (err error) {
		r.Delay, err = time.ParseDuration(v)
		return err
	},
	"errno": func(r *faults.Rule, v string) error {
		if n, err := strconv.Atoi(v); err == nil {
			r.Errno = unix.Errno(n)
			return nil
		}
		if r.Errno = errno(v); r.Errno == 0 {
			return fmt.Errorf("unknown errno %q: want a name such as ENOSPC, or a number", v)
		}
		return nil
	},
	"skip":  func(r *faults.Rule, v string) (err error) { r.Skip, err = strconv.Atoi(v); return err },
	"count": func(r *faults.Rule, v string) (err error) { r.Count, err = strconv.Atoi(v); return err },
	"probability": func(r *faults.Rule, v string) (err error) {
		r.Probability, err = strconv.ParseFloat(v, 64)
		return err
	},
	"seed": func(r *faults.Rule, v string) (err error) {
		r.Seed, err = strconv.ParseUint(v, 10, 64)
		return err
	},
}

func errno(name string) unix.Errno {
	for e := unix.Errno(1); e < 200; e++ {
		if unix.ErrnoName(e) == name {
			return e
		}
	}
	return 0
}

// members hands the keys and values of a mapping to each, and refuses a key
// that comes twice.
func members(node *yaml.Node, what string, each func(key string, value *yaml.Node) error) error {
	if node.Kind != yaml.MappingNode {
		return lineError(node.Line, "%s is a list of \"key: value\"", what)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if seen[key.Value] {
			return lineError(key.Line, "%q is there twice", key.Value)
		}
		seen[key.Value] = true
		if err := each(key.Value, value); err != nil {
			return err
		}
	}
	return nil
}

func lineError(line int, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", line, fmt.Sprintf(format, args...))
}
