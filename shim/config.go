package shim

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/runtime/bundle"
)

// ConfigPath is the configuration file. It need not exist.
const ConfigPath = "/etc/gracerun/config.toml"

// Config is what the configuration file says.
type Config struct {
	Runtime string      // path or name of the runtime to wrap, "" for what is installed
	Stop    bundle.Stop // for containers whose annotations don't say

	// Scope says what becomes of a container whose systemd scope is not as its
	// annotations ask and can't be made to.
	Scope ScopePolicy
}

// settings reads the configuration file, once, when something in it matters:
// `kill` and `state` of a container that is known don't need it.
func (c *call) settings() (*Config, error) {
	if c.config == nil {
		config, err := readConfig(ConfigPath)
		if err != nil {
			return nil, err
		}
		c.config = config
	}
	return c.config, nil
}

func readConfig(path string) (*Config, error) {
	text, err := readFile(path)
	if err == unix.ENOENT {
		text, err = nil, nil
	}
	if err != nil {
		return nil, errors.New("read " + path + ": " + err.Error())
	}
	config, err := ParseConfig(string(text))
	if err != nil {
		return nil, errors.New(path + ":" + err.Error())
	}
	return config, nil
}

// ParseConfig reads the text of a configuration file: the part of TOML 1.0 that
// it needs, which is comments, tables and strings on one line. What is TOML but
// not of that part is refused, never taken for something else. The error begins
// with the line.
//
//	runtime = "/usr/bin/crun"
//
//	[stop]
//	grace  = "30s"
//	policy = "observe"
//
//	[systemd]
//	scope = "warn"
func ParseConfig(text string) (*Config, error) {
	config := &Config{Stop: bundle.Defaults}
	table := ""
	seen := map[string]bool{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		err := func() error {
			key, value, isTable, err := parseLine(strings.TrimRight(line, "\r\n"))
			switch {
			case err != nil || key == "":
				return err
			case isTable:
				table = key + "."
				key = "[" + key + "]"
			default:
				key = table + key
			}
			if seen[key] {
				return errors.New(key + " is there twice")
			}
			seen[key] = true
			return config.set(key, value, isTable)
		}()
		if err != nil {
			return nil, errors.New(strconv.Itoa(number) + ": " + err.Error())
		}
	}
	return config, nil
}

func (c *Config) set(key, value string, isTable bool) (err error) {
	switch {
	case isTable && (key == "[stop]" || key == "[systemd]"):
	case isTable:
		return errors.New("unknown table " + key + ": want [stop] or [systemd]")
	case key == "runtime":
		c.Runtime = value
	case key == "stop.grace":
		c.Stop.Grace, err = bundle.ParseGrace(value)
	case key == "stop.policy":
		c.Stop.Policy, err = runtime.ParsePolicy(value)
	case key == "systemd.scope":
		c.Scope, err = parseScopePolicy(value)
	default:
		return errors.New("unknown key " + key + ": want runtime, stop.grace, stop.policy or systemd.scope")
	}
	return err
}

// parseLine reads `key = "value"` or `[table]`; key is "" for a line without either.
func parseLine(line string) (key, value string, isTable bool, err error) {
	line = strings.Trim(line, " \t")
	if line == "" || line[0] == '#' {
		return "", "", false, nil
	}
	if line[0] == '[' {
		name, rest, closed := strings.Cut(line[1:], "]")
		name = strings.Trim(name, " \t")
		if !closed || !isBare(name) || !isRest(rest) {
			return "", "", false, errors.New("want [table], found " + strconv.Quote(line))
		}
		return name, "", true, nil
	}
	name, rest, found := strings.Cut(line, "=")
	name, rest = strings.Trim(name, " \t"), strings.Trim(rest, " \t")
	if !found || !isBare(name) || rest == "" {
		return "", "", false, errors.New(`want key = "value", found ` + strconv.Quote(line))
	}
	value, rest, ok := parseString(rest)
	if !ok || !isRest(rest) {
		return "", "", false, errors.New(name + `: want a text in quotes, on one line`)
	}
	return name, value, false, nil
}

// isBare: the names that need no quotes.
func isBare(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// isRest: nothing, or a comment.
func isRest(rest string) bool {
	rest = strings.Trim(rest, " \t")
	return rest == "" || rest[0] == '#'
}

// parseString reads a basic string ("with \" escapes") or a literal one ('without').
func parseString(text string) (value, rest string, ok bool) {
	if text[0] == '\'' {
		value, rest, ok = strings.Cut(text[1:], "'")
		return value, rest, ok && !strings.HasPrefix(text, "'''")
	}
	if text[0] != '"' || strings.HasPrefix(text, `"""`) {
		return "", "", false
	}
	var plain []byte
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return string(plain), text[i+1:], true
		case c == '\\' && i+1 < len(text) && strings.IndexByte(`"\`, text[i+1]) >= 0:
			i++
			plain = append(plain, text[i])
		case c == '\\' || c < ' ' && c != '\t':
			return "", "", false // other escapes: nothing here has a use for them
		default:
			plain = append(plain, c)
		}
	}
	return "", "", false
}
