package logs

import (
	"errors"
	"strings"
)

// Kind is what becomes of the output of a container.
type Kind uint8

// The log drivers of conmon.
const (
	// None: the output is read and thrown away (none, off, null).
	None Kind = iota
	// K8sFile: a file in the format of the Container Runtime Interface.
	K8sFile
	// Journald: the journal of systemd.
	Journald
	// Passthrough: the container writes to the caller's own stdout and stderr;
	// nothing is read here.
	Passthrough
)

// Driver is what one --log-path asks for.
type Driver struct {
	Kind Kind
	Path string // of a K8sFile
}

// ParseDriver reads the value of one --log-path as conmon does: DRIVER,
// DRIVER:PATH, or PATH alone for a k8s-file. It splits like strtok(3): colons in
// a row count as one, and what follows a second part is dropped. The error's
// text is that of conmon.
func ParseDriver(s string) (Driver, error) {
	driver, rest := token(s)
	path, _ := token(rest)
	colon := strings.IndexByte(s, ':')
	if driver == "" {
		return Driver{}, errors.New("log-path must not be empty")
	}
	// ":none" is a file, "none" is the driver.
	if path == "" && colon == 0 {
		driver, path = "k8s-file", driver
	}
	switch {
	case driver == "off" || driver == "null" || driver == "none":
		return Driver{Kind: None}, nil
	case driver == "passthrough":
		return Driver{Kind: Passthrough}, nil
	case driver == "journald":
		return Driver{Kind: Journald}, nil
	case driver == "k8s-file" && path == "":
		return Driver{}, errors.New("k8s-file requires a filename")
	case driver == "k8s-file":
		return Driver{K8sFile, path}, nil
	case path == "" && colon < 0:
		return Driver{K8sFile, driver}, nil
	}
	return Driver{}, errors.New("No such log driver " + driver)
}

// token cuts the first part off, without the colons before it.
func token(s string) (first, rest string) {
	s = strings.TrimLeft(s, ":")
	first, rest, _ = strings.Cut(s, ":")
	return first, rest
}

// checkLabel finds what conmon finds wrong with a LABEL=VALUE, in its words.
func checkLabel(label string) error {
	name, _, _ := strings.Cut(label, "=")
	switch {
	case strings.HasPrefix(label, "="):
		return errors.New("Container labels must be in format LABEL=VALUE (no LABEL present in '" + label + "')")
	case strings.Count(label, "=") != 1:
		return errors.New("Container labels must be in format LABEL=VALUE (none or more than one '=' present in '" + label + "')")
	}
	for i := range len(name) {
		if c := name[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return errors.New("Container label names must contain only uppercase letters, numbers and underscore (in '" + label + "')")
		}
	}
	return nil
}
