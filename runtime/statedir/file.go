package statedir

import (
	"errors"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read into memory. Annotations make up most of a record,
// and Kubernetes allows 256 KiB of them.
const maxFile = 8 << 20

// ReadFile reads a file of the directory. The error is an *Error; its Err is
// unix.ENOENT if there is no such file.
func (d *Dir) ReadFile(name string) ([]byte, error) {
	data, err := d.readFile(name)
	if err != nil {
		return nil, &Error{"read", d.path + "/" + name, err}
	}
	return data, nil
}

func (d *Dir) readFile(name string) ([]byte, error) {
	// O_NONBLOCK: a FIFO in the file's place must not hang the caller.
	fd, err := openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("is not a regular file")
	}
	if st.Size > maxFile {
		return nil, errors.New("is larger than 8 MiB")
	}
	// Files are replaced and not changed, so that the size holds.
	data := make([]byte, st.Size)
	for got := 0; got < len(data); {
		n, err := unix.Read(fd, data[got:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return data[:got], nil
		}
		got += n
	}
	return data, nil
}

// WriteFile replaces a file of the directory (mode 0600): who reads it, even
// after the writer died at any instant, finds the old content or the new, whole.
//
// It does not call fsync. The state is about processes of this boot and lies on
// a tmpfs; a power failure that could lose the file has ended the container too.
func (d *Dir) WriteFile(name string, data []byte) error {
	if err := d.writeFile(name, data); err != nil {
		return &Error{"write", d.path + "/" + name, err}
	}
	return nil
}

func (d *Dir) writeFile(name string, data []byte) error {
	temp, err := tempName(name)
	if err != nil {
		return err
	}
	fd, err := openat(d.fd, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = writeAll(fd, data)
	if e := unix.Close(fd); err == nil && e != unix.EINTR {
		err = e
	}
	if err == nil {
		err = unix.Renameat(d.fd, temp, d.fd, name)
	}
	if err != nil {
		unix.Unlinkat(d.fd, temp, 0)
	}
	return err
}

// tempName is random, since two writers can have the same process id in two pid
// namespaces. What a dead writer leaves is deleted with the directory.
func tempName(name string) (string, error) {
	var random [8]byte
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		return "", err
	}
	const digits = "0123456789abcdef"
	temp := []byte("." + name + ".")
	for _, b := range random {
		temp = append(temp, digits[b>>4], digits[b&15])
	}
	return string(temp), nil
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err != nil && err != unix.EINTR {
			return err
		}
		data = data[max(n, 0):]
	}
	return nil
}
