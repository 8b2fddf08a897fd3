package journal

import (
	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
)

// ForkName is the name of a journal's fork in the state directory: steps of the
// machine that others have made while its supervisor did not answer. It begins with
// the machine as the journal has it.
const ForkName = "journal.beside"

// Fork goes on with the fork of a container's journal, or makes it. The caller must
// hold the lock (Lock), and know that the supervisor will look for the fork before it
// steps its machine again.
func Fork(dir int) (*Writer, *lifecycle.Machine, error) {
	w, m, err := ResumeFork(dir)
	if err == nil {
		return w, m, nil
	}
	main, m, err := read(dir)
	if err != nil {
		return nil, nil, err
	}
	w = &Writer{dir: dir, name: ForkName, fd: -1, config: main.Config}
	if err := w.begin(w.header(m, main.last())); err != nil {
		return nil, nil, err
	}
	return w, m, nil
}

// ResumeFork goes on with the fork. The error is unix.ENOENT, wrapped, if there is
// none: the supervisor has joined it, or nobody has made one.
func ResumeFork(dir int) (*Writer, *lifecycle.Machine, error) {
	fd, err := openat(dir, ForkName, unix.O_RDWR)
	if err != nil {
		return nil, nil, &Error{"read", ForkName, err}
	}
	w := &Writer{dir: dir, name: ForkName, fd: fd}
	m, err := w.resume(ForkName)
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	return w, m, nil
}

// read reads a journal that another writes, and changes nothing in it.
func read(dir int) (*Journal, *lifecycle.Machine, error) {
	text, err := readFile(dir, Name)
	if err == unix.ENOENT {
		text, err = readFile(dir, OldName) // its writer is between two renames
	}
	if err != nil {
		return nil, nil, &Error{"read", Name, err}
	}
	j, err := Read(text)
	if err != nil {
		return nil, nil, err
	}
	m, err := j.Machine()
	return j, m, err
}

// Join makes the fork's steps those of the journal, if there is a fork, and removes
// it. It gives them, and the machine after the last one; nil without a fork. Resume
// goes on with the journal then. The caller must hold the lock and be the supervisor.
//
// The machine is good even if the error is that the journal could not be written. A
// fork that cannot be read is removed, and given up.
func Join(dir int) (steps []Record, m *lifecycle.Machine, err error) {
	text, err := readFile(dir, ForkName)
	if err == unix.ENOENT {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, &Error{"read", ForkName, err}
	}
	j, err := Read(text)
	if err == nil {
		m, err = j.Machine()
	}
	if err == nil {
		fork := text[lineEnd(text):]
		if steps = j.Records; len(steps) > 0 && steps[0].Event == "" {
			steps, fork = steps[1:], fork[lineEnd(fork):] // the machine that the journal has
		}
		err = adopt(dir, fork)
	}
	if e := unix.Unlinkat(dir, ForkName, 0); err == nil && e != nil {
		err = &Error{"remove", ForkName, e}
	}
	return steps, m, err
}

// adopt puts the records of a fork behind those of the journal. Of a supervisor that
// is killed here the journal has them once more, or the last one not whole.
func adopt(dir int, records []byte) error {
	w, _, err := Resume(dir)
	if err != nil {
		return err
	}
	defer w.Close()
	for len(records) > 0 {
		end := lineEnd(records)
		if records[end-1] != '\n' {
			break // its writer died
		}
		w.buf, records = append(w.buf[:0], records[:end]...), records[end:]
		if w.size+int64(end) <= Limit {
			err = w.append()
		} else {
			err = w.begin(append(appendHeader(nil, &w.config), w.buf...))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lineEnd is where the first line ends.
func lineEnd(text []byte) int {
	for i, b := range text {
		if b == '\n' {
			return i + 1
		}
	}
	return len(text)
}
