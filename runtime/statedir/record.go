package statedir

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime"
	"gracerun.io/signals"
)

// RecordName is the name of the record in the state directory.
const RecordName = "container"

// recordVersion stands in the first line. A reader that meets another refuses
// the record: half understood, it could signal the wrong process.
const recordVersion = "1"

// Record is what is known of a container from its creation on, and how it ended.
type Record struct {
	ID          string
	Bundle      string // absolute path
	Rootfs      string // root.path of config.json as it stands there
	OCIVersion  string // ociVersion of config.json
	Created     string // RFC 3339
	Terminal    bool
	CgroupsPath string // linux.cgroupsPath of config.json, "" if not given

	Runtime     string   // path of the wrapped runtime
	RuntimeArgs []string // its global arguments
	RuntimeRoot string   // its --root, "" if not given

	Init string // process.Identity of the container's init, "" before it exists

	StopSignal signals.Signal
	Grace      time.Duration
	Policy     string // its name, as version 0.8 knows it (lifecycle.Policy.Known); the journal has the true one

	Annotations runtime.Annotations

	Exit Exit
}

// Exit says how init ended. The zero value says that it has not.
type Exit struct {
	Status string // "code=N", "signal=N" or "unknown", as the control protocol says it
	Reason string // why, where more is known: "oom", "deadline", why it is unknown
	At     string // RFC 3339
}

// ReadRecord reads the record of the container. A directory without one belongs
// to a create that is under way or died: the error then wraps unix.ENOENT.
func (d *Dir) ReadRecord() (*Record, error) {
	data, err := d.ReadFile(RecordName)
	if err != nil {
		return nil, err
	}
	r, err := ParseRecord(string(data))
	if err == nil && r.ID != d.id {
		err = errors.New("is of container " + strconv.Quote(r.ID))
	}
	if err != nil {
		return nil, &Error{"read", d.path + "/" + RecordName, err}
	}
	return r, nil
}

// WriteRecord replaces the record of the container.
func (d *Dir) WriteRecord(r *Record) error {
	return d.WriteFile(RecordName, []byte(r.String()))
}

// HasRecord tells, without reading it, whether the record was written.
func (d *Dir) HasRecord() bool {
	return unix.Faccessat(d.fd, RecordName, unix.F_OK, 0) == nil
}

// String gives the record as ParseRecord reads it: a line "key=value" for each
// thing known, where a backslash, a newline and, in a key, an equals sign stand
// as \\, \n and \e.
func (r *Record) String() string {
	var text strings.Builder
	text.Grow(512) // mostly enough
	put := func(key, value string) {
		text.WriteString(escapeField(key, true))
		text.WriteByte('=')
		text.WriteString(escapeField(value, false))
		text.WriteByte('\n')
	}
	known := func(key, value string) {
		if value != "" {
			put(key, value)
		}
	}
	put("version", recordVersion)
	put("id", r.ID)
	put("bundle", r.Bundle)
	known("rootfs", r.Rootfs)
	known("oci-version", r.OCIVersion)
	known("created", r.Created)
	put("terminal", strconv.FormatBool(r.Terminal))
	known("cgroups-path", r.CgroupsPath)
	put("runtime", r.Runtime)
	for _, arg := range r.RuntimeArgs {
		put("runtime-arg", arg)
	}
	known("runtime-root", r.RuntimeRoot)
	known("init", r.Init)
	put("stop-signal", r.StopSignal.Name())
	put("grace-ns", strconv.FormatInt(int64(r.Grace), 10))
	put("policy", r.Policy)
	for _, a := range r.Annotations {
		put(annotationPrefix+a.Key, a.Value)
	}
	known("exit", r.Exit.Status)
	known("exit-reason", r.Exit.Reason)
	known("exited", r.Exit.At)
	return text.String()
}

const annotationPrefix = "annotation."

// escapeField does without strings.Replacer, which keeps 12 KiB of tables.
func escapeField(text string, key bool) string {
	text = strings.ReplaceAll(text, `\`, `\\`)
	text = strings.ReplaceAll(text, "\n", `\n`)
	if key {
		text = strings.ReplaceAll(text, "=", `\e`)
	}
	return text
}

// ParseRecord reads the text of String. It refuses what String does not write:
// unknown or repeated keys, missing ones, a last line without its end. The error
// names the line.
func ParseRecord(text string) (*Record, error) {
	if !strings.HasPrefix(text, "version="+recordVersion+"\n") {
		first, _, _ := strings.Cut(text, "\n")
		return nil, lineError(1, "want version="+recordVersion+", found "+strconv.Quote(shorten(first)))
	}
	r := new(Record)
	seen := map[string]bool{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		if err := r.parseLine(line, seen); err != nil {
			return nil, lineError(number, err.Error())
		}
	}
	for _, key := range []string{"id", "bundle", "terminal", "runtime", "stop-signal", "grace-ns", "policy"} {
		if !seen[key] {
			return nil, lineError(number+1, key+" is missing")
		}
	}
	if !seen["exit"] && (seen["exit-reason"] || seen["exited"]) {
		return nil, lineError(number+1, "exit is missing")
	}
	return r, nil
}

func (r *Record) parseLine(line string, seen map[string]bool) error {
	line, ended := strings.CutSuffix(line, "\n")
	if !ended {
		return errors.New("is cut off")
	}
	escapedKey, escapedValue, ok := strings.Cut(line, "=")
	if !ok {
		return errors.New("no key=value: " + strconv.Quote(shorten(line)))
	}
	key, err := unescape(escapedKey)
	if err != nil {
		return err
	}
	value, err := unescape(escapedValue)
	if err != nil {
		return err
	}
	if seen[key] && key != "runtime-arg" {
		return errors.New(strconv.Quote(shorten(key)) + " is there twice")
	}
	seen[key] = true
	if err := r.set(key, value); err != nil {
		return errors.New(shorten(key) + ": " + err.Error())
	}
	return nil
}

func (r *Record) set(key, value string) (err error) {
	if name, ok := strings.CutPrefix(key, annotationPrefix); ok {
		r.Annotations = append(r.Annotations, runtime.Annotation{Key: name, Value: value})
		return nil
	}
	switch key {
	case "version":
	case "id":
		r.ID, err = value, ValidateID(value)
	case "bundle":
		r.Bundle = value
	case "rootfs":
		r.Rootfs = value
	case "oci-version":
		r.OCIVersion = value
	case "created":
		r.Created, err = value, checkTime(value)
	case "terminal":
		r.Terminal, err = parseBool(value)
	case "cgroups-path":
		r.CgroupsPath = value
	case "runtime":
		r.Runtime = value
	case "runtime-arg":
		r.RuntimeArgs = append(r.RuntimeArgs, value)
	case "runtime-root":
		r.RuntimeRoot = value
	case "init":
		r.Init = value
	case "stop-signal":
		r.StopSignal, err = signals.Parse(value)
	case "grace-ns":
		r.Grace, err = parseGrace(value)
	case "policy":
		r.Policy = value
	case "exit":
		r.Exit.Status, err = value, checkStatus(value)
	case "exit-reason":
		r.Exit.Reason = value
	case "exited":
		r.Exit.At, err = value, checkTime(value)
	default:
		return errors.New("is not a known key")
	}
	return err
}

func parseBool(text string) (bool, error) {
	if text != "true" && text != "false" {
		return false, errors.New("want true or false, found " + strconv.Quote(shorten(text)))
	}
	return text == "true", nil
}

func parseGrace(text string) (time.Duration, error) {
	ns, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ns < 0 {
		return 0, errors.New("want nanoseconds, found " + strconv.Quote(shorten(text)))
	}
	return time.Duration(ns), nil
}

func checkTime(text string) error {
	if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
		return errors.New("want an RFC 3339 time, found " + strconv.Quote(shorten(text)))
	}
	return nil
}

func checkStatus(text string) error {
	kind, digits, _ := strings.Cut(text, "=")
	n, err := strconv.ParseUint(digits, 10, 8)
	switch {
	case text == "unknown":
		return nil
	case kind == "code" && err == nil:
		return nil
	case kind == "signal" && err == nil && signals.Signal(n).Valid():
		return nil
	}
	return errors.New("want code=N, signal=N or unknown, found " + strconv.Quote(shorten(text)))
}

func unescape(text string) (string, error) {
	if strings.IndexByte(text, '\\') < 0 {
		return text, nil
	}
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '\\' {
			i++
			switch {
			case i < len(text) && text[i] == '\\':
			case i < len(text) && text[i] == 'n':
				c = '\n'
			case i < len(text) && text[i] == 'e':
				c = '='
			default:
				return "", errors.New("unknown escape in " + strconv.Quote(shorten(text)))
			}
		}
		plain = append(plain, c)
	}
	return string(plain), nil
}

// shorten keeps a message on one screen whatever stands in the file.
func shorten(text string) string {
	if len(text) > 60 {
		return text[:60] + "..."
	}
	return text
}

func lineError(number int, what string) error {
	return errors.New("line " + strconv.Itoa(number) + ": " + what)
}
