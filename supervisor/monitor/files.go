package monitor

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/cmdline"
)

// readFile reads a small file to its end.
func readFile(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// What is read is mostly short, and the heap has a page for each size of
	// object that was ever in it.
	var buf [4096]byte
	var data []byte
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return data, nil
		}
		data = append(data, buf[:n]...)
	}
}

func open(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// writeAtomically replaces a file as g_file_set_contents does: whoever reads it
// finds it whole, and whoever watches the directory sees one file come.
//
// It is not synced. What is written here is about processes of this boot.
func writeAtomically(path, text string) error {
	temp, err := tempName(path)
	if err != nil {
		return err
	}
	fd, err := open(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	for b := []byte(text); len(b) > 0 && err == nil; {
		var n int
		if n, err = unix.Write(fd, b); err == unix.EINTR {
			err = nil
		}
		b = b[max(n, 0):]
	}
	unix.Close(fd)
	if err == nil {
		err = unix.Rename(temp, path)
	}
	if err != nil {
		_ = unix.Unlink(temp)
	}
	return err
}

// tempName is the name with a dot and six random letters behind it.
func tempName(path string) (string, error) {
	var random [6]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return "", err
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
	temp := append([]byte(path), '.')
	for _, b := range random {
		temp = append(temp, letters[b%32])
	}
	return string(temp), nil
}

// readOnce reads what is there, up to 8 KiB, waiting for it. 0 bytes are the end.
func readOnce(fd int) ([]byte, error) {
	buf := make([]byte, 8191)
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return buf[:max(n, 0)], err
		}
	}
}

// pipeFromEnv gives the descriptor that a variable of the environment names, -1
// if there is none. It is not passed on to programs that are started.
func pipeFromEnv(name string) (int, error) {
	text, ok := unix.Getenv(name)
	if !ok {
		return -1, nil
	}
	fd, err := strconv.Atoi(text)
	if err != nil {
		return -1, errors.New("unable to parse " + name)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		return -1, errors.New("unable to make " + name + " CLOEXEC " + cmdline.Text(err))
	}
	return fd, nil
}
