// Package bundle reads from an OCI bundle what decides how its container is
// stopped.
//
// It reads a few members of config.json and checks the syntax of the rest; the
// meaning of the rest is for the wrapped runtime to judge. See jsontext for why
// it does not use encoding/json and the types of runtime-spec.
package bundle

import (
	"errors"
	"strconv"

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
	Annotations runtime.Annotations // in the order of the file
}

// maxConfigMiB bounds what is read into memory. Real ones have 10 to 100 KiB.
const maxConfigMiB = 64

// Load reads config.json of the bundle in directory dir. The error is one line
// that names the file, and for bad content line and column in it; for a missing
// file it has runc's words (spec.go, loadSpec).
func Load(dir string) (*Config, error) { return LoadFile(dir + "/config.json") }

// LoadFile reads a config.json by another name, as crun's --config has it.
func LoadFile(path string) (*Config, error) {
	data, err := wholefile.Read(unix.AT_FDCWD, path, 0, maxConfigMiB)
	if err == unix.ENOENT {
		return nil, errors.New("JSON specification file " + path + " not found")
	}
	if err != nil {
		return nil, errors.New("read " + path + ": " + err.Error())
	}
	config, err := Parse(data)
	if err != nil {
		return nil, errors.New(path + ":" + err.Error())
	}
	return config, nil
}

// Parse reads the text of a config.json. The error begins with line and column.
//
// Strict where runtimes differ: a member that comes twice is refused, since runc
// takes the last one or merges both, and another reader the first.
func Parse(data []byte) (*Config, error) {
	p := parser{Reader: jsontext.NewReader(data)}
	if err := p.document(); err != nil {
		return nil, err
	}
	return &p.config, nil
}

type parser struct {
	*jsontext.Reader
	config Config
}

func (p *parser) document() error {
	err := p.members(map[string]func() error{
		"ociVersion":  p.text(&p.config.OCIVersion),
		"annotations": p.annotations,
		"process":     p.object(map[string]func() error{"terminal": p.boolean(&p.config.Terminal)}),
		"root":        p.object(map[string]func() error{"path": p.text(&p.config.Rootfs)}),
		"linux":       p.object(map[string]func() error{"cgroupsPath": p.text(&p.config.CgroupsPath)}),
	})
	if err != nil {
		return err
	}
	if err := p.End(); err != nil {
		return err
	}
	if p.config.OCIVersion == "" {
		return p.Fail("ociVersion is missing")
	}
	return nil
}

// members reads an object, hands the members that wanted names to the functions
// there, and skips the others.
func (p *parser) members(wanted map[string]func() error) error {
	seen := map[string]bool{}
	return p.Object(func(key string) error {
		read, ok := wanted[key]
		if !ok {
			return p.Skip()
		}
		return p.once(seen, key, read)
	})
}

// once reads the value of a key unless it was there before or is null.
func (p *parser) once(seen map[string]bool, key string, read func() error) error {
	if seen[key] {
		return p.Fail(strconv.Quote(key) + " is there twice")
	}
	seen[key] = true
	if p.Null() {
		return nil
	}
	return read()
}

func (p *parser) object(wanted map[string]func() error) func() error {
	return func() error { return p.members(wanted) }
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

func (p *parser) annotations() error {
	seen := map[string]bool{}
	return p.Object(func(key string) error {
		entry := runtime.Annotation{Key: key} // null is an empty text, as for runc
		err := p.once(seen, key, p.text(&entry.Value))
		p.config.Annotations = append(p.config.Annotations, entry)
		return err
	})
}
