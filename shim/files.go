package shim

import "golang.org/x/sys/unix"

// readFile reads a whole file of moderate size.
func readFile(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readAll(fd)
}

// readAll reads to the end.
func readAll(fd int) (data []byte, err error) {
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return data, nil
		case len(data) > 16<<20:
			return nil, errTooLarge
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

// write writes all of it, or as much as goes: there is nobody to tell otherwise.
func write(fd int, data []byte) {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EAGAIN {
			// The caller's pipe does not block; it has to be waited for all the same.
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			_, err = unix.Poll(fds, -1)
			n = 0
		}
		if err != nil && err != unix.EINTR {
			return
		}
		data = data[max(n, 0):]
	}
}
