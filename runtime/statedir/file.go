package statedir

import (
	"golang.org/x/sys/unix"

	"gracerun.io/internal/wholefile"
)

// maxFileMiB bounds what is read into memory. Annotations make up most of a record,
// and Kubernetes allows 256 KiB of them.
const maxFileMiB = 8

// ReadFile reads a file of the directory. The error is an *Error; its Err is
// unix.ENOENT if there is no such file.
func (d *Dir) ReadFile(name string) ([]byte, error) {
	data, err := wholefile.Read(d.fd, name, wholefile.NoFollow, maxFileMiB)
	if err != nil {
		return nil, &Error{"read", d.path + "/" + name, err}
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
