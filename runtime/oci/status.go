package oci

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/wholefile"
	"gracerun.io/runtime"
	"gracerun.io/runtime/bundle"
	"gracerun.io/runtime/cgroup"
	"gracerun.io/runtime/internal/jsontext"
	"gracerun.io/runtime/startup"
)

// Status is what a runtime's own files say of a container.
type Status struct {
	Style       Style
	Pid         int
	StartTime   uint64 // field 22 of /proc/PID/stat
	OCIVersion  string
	Bundle      string
	Rootfs      string
	Created     string
	Owner       string
	Scope       string // crun only
	CgroupsPath string // as the runtime has it; for records only
	Cgroup      cgroup.Cgroup
	Annotations runtime.Annotations
}

// The files of a container in the runtime's root. execFifo is there, for both,
// from create until start.
const (
	crunStatus = "status"
	runcState  = "state.json"
	execFifo   = startup.FIFO
)

// ErrUnknown: in the directory is nothing that is known from crun or runc.
var ErrUnknown = errors.New("no status of a runtime that is known")

// ReadStatus reads the files that a runtime keeps in the directory of a
// container, ROOT/ID. The error wraps unix.ENOENT if there is no such directory,
// is ErrUnknown if nothing in it is known, or says what could not be read.
func ReadStatus(dir string) (*Status, error) {
	data, err := readFile(dir + "/" + crunStatus)
	if err == nil {
		s, err := parseCrun(data)
		if err != nil {
			return nil, fileError(dir, crunStatus, err)
		}
		if err := s.addConfig(dir); err != nil {
			return nil, err
		}
		return s, nil
	}
	if err != unix.ENOENT {
		return nil, fileError(dir, crunStatus, err)
	}
	data, err = readFile(dir + "/" + runcState)
	switch {
	case err == nil:
		s, err := parseRunc(data)
		if err != nil {
			return nil, fileError(dir, runcState, err)
		}
		return s, nil
	case err != unix.ENOENT:
		return nil, fileError(dir, runcState, err)
	case !Has(dir):
		return nil, fileError(dir, "", unix.ENOENT)
	}
	return nil, ErrUnknown
}

// ReadInit is the part of ReadStatus that tells who the container's init is: its
// number, and its start time as field 22 of /proc/PID/stat, 0 if it is not kept.
func ReadInit(dir string) (pid int, startTime uint64, err error) {
	var s *Status
	data, err := readFile(dir + "/" + crunStatus)
	if err == nil {
		s, err = parseCrun(data)
	} else if err == unix.ENOENT {
		s, err = ReadStatus(dir)
	}
	if err != nil {
		return 0, 0, err
	}
	return s.Pid, s.StartTime, nil
}

// Has reports whether there is such a directory: whether a runtime knows of a
// container whose directory it would be.
func Has(dir string) bool { return exists(dir) }

// IsKnown reports whether in the directory of a container is what a runtime keeps
// there that is known: ReadStatus does not fail with ErrUnknown.
func IsKnown(dir string) bool { return exists(dir+"/"+crunStatus) || exists(dir+"/"+runcState) }

// parseCrun reads the file that libcrun_write_container_status writes.
func parseCrun(data []byte) (*Status, error) {
	s := &Status{Style: Crun, OCIVersion: "1.0.0"} // what crun prints, whatever config.json has
	r := jsontext.NewReader(data)
	err := r.Object(func(key string) (err error) {
		if r.Null() {
			return nil
		}
		switch key {
		case "pid":
			s.Pid, err = readInt(r)
		case "process-start-time":
			var n int64
			n, err = r.Int()
			s.StartTime = uint64(n)
		case "cgroup-path":
			s.CgroupsPath, err = r.String()
		case "scope":
			s.Scope, err = r.String()
		case "rootfs":
			s.Rootfs, err = r.String()
		case "bundle":
			s.Bundle, err = r.String()
		case "created":
			s.Created, err = r.String()
		case "owner":
			s.Owner, err = r.String()
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil && (s.Pid <= 0 || s.Created == "") {
		err = errors.New("pid or created is missing")
	}
	if err != nil {
		return nil, err
	}
	s.Cgroup = cgroup.At(s.CgroupsPath)
	return s, nil
}

// addConfig takes the annotations from the copy of config.json that crun keeps.
func (s *Status) addConfig(dir string) error {
	config, err := bundle.Load(dir, bundle.Crun)
	if err == nil {
		s.Annotations = config.Annotations
	}
	return err
}

// parseRunc reads the file that libcontainer keeps (State in
// libcontainer/container_linux.go).
func parseRunc(data []byte) (*Status, error) {
	s := &Status{Style: Runc}
	r := jsontext.NewReader(data)
	err := r.Object(func(key string) (err error) {
		switch key {
		case "init_process_pid":
			s.Pid, err = readInt(r)
		case "init_process_start":
			var n int64
			n, err = r.Int()
			s.StartTime = uint64(n)
		case "created":
			s.Created, err = r.String()
		case "config":
			err = s.parseRuncConfig(r)
		case "cgroup_paths":
			err = s.parseCgroupPaths(r)
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil && (s.Pid <= 0 || s.Created == "") {
		err = errors.New("init_process_pid or created is missing")
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Status) parseRuncConfig(r *jsontext.Reader) error {
	return r.Object(func(key string) (err error) {
		switch key {
		case "rootfs":
			s.Rootfs, err = r.String()
		case "version":
			s.OCIVersion, err = r.String()
		case "labels":
			if !r.Null() {
				err = r.List(func() error { return s.addLabel(r) })
			}
		case "cgroups":
			if !r.Null() {
				err = s.parseRuncCgroup(r)
			}
		default:
			err = r.Skip()
		}
		return err
	})
}

func (s *Status) parseRuncCgroup(r *jsontext.Reader) error {
	return r.Object(func(key string) (err error) {
		if key == "path" {
			s.CgroupsPath, err = r.String()
			return err
		}
		return r.Skip()
	})
}

// addLabel reads "key=value": libcontainer keeps annotations so, and the bundle
// as one among them (libcontainer/utils, Annotations).
func (s *Status) addLabel(r *jsontext.Reader) error {
	label, err := r.String()
	if err != nil {
		return err
	}
	key, value, ok := strings.Cut(label, "=")
	switch {
	case !ok:
	case key == "bundle":
		s.Bundle = value
	default:
		s.Annotations = append(s.Annotations, runtime.Annotation{Key: key, Value: value})
	}
	return nil
}

// parseCgroupPaths takes the freezer's on version 1, and that of version 2 where
// there is no other: its key is empty.
func (s *Status) parseCgroupPaths(r *jsontext.Reader) error {
	if r.Null() {
		return nil
	}
	return r.Object(func(key string) error {
		dir, err := r.String()
		switch {
		case err != nil || dir == "":
		case key == "freezer":
			s.Cgroup = cgroup.Cgroup{Dir: dir, V1: true}
		case key == "" && s.Cgroup.Dir == "":
			s.Cgroup = cgroup.Cgroup{Dir: dir}
		}
		return err
	})
}

func readInt(r *jsontext.Reader) (int, error) {
	n, err := r.Int()
	if err == nil && int64(int32(n)) != n {
		err = errors.New("pid " + strconv.FormatInt(n, 10) + " is out of range")
	}
	return int(n), err
}

func fileError(dir, name string, err error) error { return &FileError{dir + "/" + name, err} }

// FileError says which file of a runtime could not be used.
type FileError struct {
	Path string
	Err  error
}

func (e *FileError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *FileError) Unwrap() error { return e.Err }

func exists(path string) bool { return unix.Faccessat(unix.AT_FDCWD, path, unix.F_OK, 0) == nil }

// maxStatusMiB bounds what is read into memory; a state.json holds a config.json.
const maxStatusMiB = 64

func readFile(path string) ([]byte, error) {
	return wholefile.Read(unix.AT_FDCWD, path, wholefile.NoFollow, maxStatusMiB)
}
