// Package recovery is what a supervisor leaves behind for whoever goes on when it
// has died, beside the journal of its machine and the spool of its logs:
//
//	supervisor  how it was started: command line, environment, place (Origin)
//	notes       what has happened since that only it knew (Notes)
//
// The first is written once. The second is one mapped page: to note something is
// a store, which takes no system call and outlives the process.
//
// The supervisor and `gracerun` pay for every import of this package.
package recovery

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/runtime/statedir"
)

// OriginName is the name of the file in the state directory.
const OriginName = "supervisor"

// Origin says how a supervisor was started.
type Origin struct {
	Program  string   // path of gracemon
	Dir      string   // working directory
	OOMScore string   // what the process was started with, "" if not known
	Args     []string // the command line, with the name of the program
	Env      []string
	Cgroups  []string // lines of /proc/PID/cgroup
}

const originMagic = "gracerun-supervisor 1"

// Append appends the text of the file: strings that end with a NUL byte, which
// none of them can hold; lists with their length before them.
func (o *Origin) Append(b []byte) []byte {
	size := len(originMagic) + len(o.Program) + len(o.Dir) + len(o.OOMScore) + 64
	for _, list := range [...][]string{o.Args, o.Env, o.Cgroups} {
		for _, text := range list {
			size += len(text) + 1
		}
	}
	b = slices.Grow(b, size)
	put := func(text string) { b = append(append(b, text...), 0) }
	put(originMagic)
	put(o.Program)
	put(o.Dir)
	put(o.OOMScore)
	for _, list := range [...][]string{o.Args, o.Env, o.Cgroups} {
		put(strconv.Itoa(len(list)))
		for _, text := range list {
			put(text)
		}
	}
	return b
}

var errOrigin = errors.New("is not what a supervisor has written")

// ParseOrigin reads what Append writes.
func ParseOrigin(text []byte) (*Origin, error) {
	words := strings.Split(string(text), "\x00")
	if len(words) < 5 || words[0] != originMagic || words[len(words)-1] != "" {
		return nil, errOrigin
	}
	o := &Origin{Program: words[1], Dir: words[2], OOMScore: words[3]}
	words = words[4 : len(words)-1]
	for _, list := range [...]*[]string{&o.Args, &o.Env, &o.Cgroups} {
		if len(words) == 0 {
			return nil, errOrigin
		}
		n, err := strconv.Atoi(words[0])
		words = words[1:]
		if err != nil || n < 0 || n > len(words) {
			return nil, errOrigin
		}
		*list, words = words[:n:n], words[n:]
	}
	if len(words) != 0 || len(o.Args) == 0 {
		return nil, errOrigin
	}
	return o, nil
}

// WriteOrigin writes the file.
func WriteOrigin(dir *statedir.Dir, o *Origin) error {
	return dir.WriteFile(OriginName, o.Append(nil))
}

// ReadOrigin reads the file. The error wraps unix.ENOENT if there never was a
// supervisor that could have a successor.
func ReadOrigin(dir *statedir.Dir) (*Origin, error) {
	text, err := dir.ReadFile(OriginName)
	if err != nil {
		return nil, err
	}
	o, err := ParseOrigin(text)
	if err != nil {
		return nil, &statedir.Error{Op: "read", Path: dir.Path() + "/" + OriginName, Err: err}
	}
	return o, nil
}

// Finish takes the origin away: there is nothing left to go on with.
func Finish(dir int) { _ = unix.Unlinkat(dir, OriginName, 0) }

// Exists tells, without reading it, whether there is an origin.
func Exists(dir int) bool { return unix.Faccessat(dir, OriginName, unix.F_OK, 0) == nil }
