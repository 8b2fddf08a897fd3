// Package bundle reads from an OCI bundle what decides how its container is
// stopped.
//
// It reads a few members of config.json and checks the syntax of the rest; the
// meaning of the rest is for the wrapped runtime to judge. See jsontext for why
// it does not use encoding/json and the types of runtime-spec.
package bundle

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/wholefile"
	"gracerun.io/runtime"
	"gracerun.io/runtime/internal/jsontext"
)

// Config is what is read of config.json (OCI runtime specification, config.md
// and config-linux.md). Members that are absent or null are zero.
type Config struct {
	OCIVersion  string              // ociVersion, never empty
	Rootfs      string              // root.path
	Terminal    bool                // process.terminal
	CgroupsPath string              // linux.cgroupsPath
	Poststart   bool                // hooks.poststart has entries, or may have
	Annotations runtime.Annotations // in the order of the file
}

// maxConfigMiB bounds what is read into memory. Real ones have 10 to 100 KiB.
const maxConfigMiB = 64

// Rules say how a runtime reads what JSON leaves open.
type Rules uint8

// The rules.
const (
	// Go are those of encoding/json, which runc and gracerun-native read by: the case
	// of a member's name does not matter; of members that come twice the last one
	// counts, and objects are joined; what follows the document is not looked at.
	Go Rules = iota
	// Crun are those of crun: names are what they are, and the first one counts.
	Crun
)

// Load reads config.json of the bundle in directory dir. The error is one line
// that names the file, and for bad content line and column in it; for a missing
// file it has runc's words (spec.go, loadSpec).
func Load(dir string, rules Rules) (*Config, error) { return LoadFile(dir+"/config.json", rules) }

// LoadFile reads a config.json by another name, as crun's --config has it.
func LoadFile(path string, rules Rules) (*Config, error) {
	data, err := wholefile.Read(unix.AT_FDCWD, path, 0, maxConfigMiB)
	if err == unix.ENOENT {
		return nil, errors.New("JSON specification file " + path + " not found")
	}
	if err != nil {
		return nil, errors.New("read " + path + ": " + err.Error())
	}
	config, err := Parse(data, rules)
	if err != nil {
		return nil, errors.New(path + ":" + err.Error())
	}
	return config, nil
}

// Parse reads the text of a config.json as a runtime with these rules does. The error
// begins with line and column.
func Parse(data []byte, rules Rules) (*Config, error) {
	p := parser{Reader: jsontext.NewReader(data), data: data, rules: rules}
	if err := p.document(); err != nil {
		return nil, err
	}
	return &p.config, nil
}

type parser struct {
	*jsontext.Reader
	data   []byte
	rules  Rules
	config Config
}

// member is one that is wanted.
type member struct {
	name string
	read func() error
	null func() // what null makes of it; nil: nothing
	seen bool
}

func (p *parser) document() error {
	c := &p.config
	err := p.members([]*member{
		{name: "ociVersion", read: p.text(&c.OCIVersion)},
		{name: "annotations", read: p.annotations, null: func() { c.Annotations = nil }},
		p.object("process", func() { c.Terminal = false }, &member{name: "terminal", read: p.boolean(&c.Terminal)}),
		p.object("root", func() { c.Rootfs = "" }, &member{name: "path", read: p.text(&c.Rootfs)}),
		{name: "hooks", read: p.hooks},
		p.object("linux", func() { c.CgroupsPath = "" }, &member{name: "cgroupsPath", read: p.text(&c.CgroupsPath)}),
	})
	if err != nil {
		return err
	}
	if p.rules != Go {
		if err := p.End(); err != nil {
			return err
		}
	}
	if c.OCIVersion == "" {
		return p.Fail("ociVersion is missing")
	}
	return nil
}

// members reads an object, has those members that are wanted read, and skips the
// others.
func (p *parser) members(wanted []*member) error {
	return p.Object(func(key string) error {
		m := p.find(wanted, key)
		switch {
		case m == nil, m.seen && p.rules == Crun:
			return p.Skip()
		case p.Null():
			m.seen = true
			if m.null != nil {
				m.null()
			}
			return nil
		}
		m.seen = true
		return m.read()
	})
}

func (p *parser) find(wanted []*member, key string) *member {
	for _, m := range wanted {
		if m.name == key {
			return m
		}
	}
	if p.rules == Go {
		for _, m := range wanted {
			if strings.EqualFold(m.name, key) {
				return m
			}
		}
	}
	return nil
}

func (p *parser) object(name string, null func(), wanted *member) *member {
	return &member{name: name, read: func() error { return p.members([]*member{wanted}) }, null: null}
}

func (p *parser) text(into *string) func() error {
	return func() (err error) {
		*into, err = p.String()
		return err
	}
}

func (p *parser) boolean(into *bool) func() error {
	return func() (err error) {
		*into, err = p.Bool()
		return err
	}
}

// hooks looks for poststart. What is wrong with them is for the runtime to say.
func (p *parser) hooks() error {
	from := p.Offset()
	if err := p.Skip(); err != nil {
		return err
	}
	r := jsontext.NewReader(p.data[from:p.Offset()])
	err := r.Object(func(key string) error {
		switch {
		case !strings.EqualFold(key, "poststart"):
			return r.Skip()
		case r.Null():
			return nil
		}
		return r.List(func() error {
			p.config.Poststart = true
			return r.Skip()
		})
	})
	p.config.Poststart = p.config.Poststart || err != nil
	return nil
}

func (p *parser) annotations() error {
	return p.Object(func(key string) (err error) {
		entry := runtime.Annotation{Key: key}
		if !p.Null() { // which is an empty text, as for runc
			entry.Value, err = p.String()
		}
		if p.rules == Go {
			p.config.Annotations = slices.DeleteFunc(p.config.Annotations, func(a runtime.Annotation) bool { return a.Key == key })
		}
		p.config.Annotations = append(p.config.Annotations, entry)
		return err
	})
}
