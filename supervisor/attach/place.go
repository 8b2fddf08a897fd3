package attach

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Place is where clients look for the attach socket: "attach" in the bundle.
// CRI-O gets there by SocketDir/UUID/attach, a link to the bundle, since the path
// of a bundle can be longer than the 107 bytes that fit into an address
// (unix(7)). Podman goes to the bundle itself.
type Place struct {
	Bundle     string
	FullAttach bool   // no link
	SocketDir  string // must exist, unless FullAttach
	UUID       string
}

// Error says what failed. Err is a unix.Errno or says it in words.
type Error struct {
	Op  string // with the path, if it is about one
	Err error
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// socket is a socket with a name in the file system.
type socket struct {
	fd   int
	dir  int    // directory with the socket
	name string // of the socket there
	path string // for messages
	link string // to the directory, "" if there is none
}

// maxAddress is how long a path in an address can be (unix(7), without the NUL).
const maxAddress = 107

// listen makes the attach socket and lets in the first clients.
func (p *Place) listen() (socket, error) {
	s, err := p.attachSocket()
	if err != nil {
		s.close()
		return socket{fd: -1}, err
	}
	return s, nil
}

func (p *Place) attachSocket() (s socket, err error) {
	s = socket{fd: -1, dir: -1, name: "attach", path: p.Bundle + "/attach"}
	if !p.FullAttach {
		s.link = p.linkPath()
		if err := link(p.Bundle, s.link); err != nil {
			s.link = ""
			return s, err
		}
		s.path = s.link + "/attach"
	}
	if s.dir, err = openDir(p.Bundle); err != nil {
		return s, err
	}
	// A successor replaces the socket of the one that died: until it can be
	// connected to, it has another name.
	fresh := s.name + ".new"
	if s.fd, err = bind(s.dir, fresh, s.path, unix.SOCK_SEQPACKET, 0o700); err != nil {
		return s, err
	}
	if err := unix.Listen(s.fd, backlog); err != nil {
		return s, &Error{"Failed to listen on attach socket: " + s.path, err}
	}
	if err := unix.Renameat(s.dir, fresh, s.dir, s.name); err != nil {
		return s, &Error{"Failed to put the attach socket in its place: " + s.path, err}
	}
	return s, nil
}

// backlog is conmon's.
const backlog = 10

// linkPath: a link that is as long as an address can be would leave no room for
// the socket that conmon once tried to make there; clients that know UUIDs of
// one length only find it under the shorter name.
func (p *Place) linkPath() string {
	path := p.SocketDir + "/" + p.UUID
	if len(path) == maxAddress {
		path = path[:maxAddress-1]
	}
	return path
}

// link makes the link to the bundle, in place of an older one.
func link(bundle, path string) error {
	fresh := path + ".new"
	if err := unix.Unlink(fresh); err != nil && err != unix.ENOENT {
		return &Error{"Failed to remove existing symlink for socket directory " + fresh, err}
	}
	err := unix.Symlink(bundle, fresh)
	if err == nil {
		if err = unix.Rename(fresh, path); err == nil {
			return nil
		}
		unix.Unlink(fresh)
	}
	return &Error{"Failed to create symlink for attach socket " + path, err}
}

func openDir(path string) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &Error{"failed to open socket path parent dir " + path, err}
	}
	return fd, nil
}

// bind makes a socket that does not block with the name in the directory. The
// address goes by the directory's descriptor, however long its path is.
func bind(dir int, name, path string, kind int, mode uint32) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, &Error{"Failed to create socket " + path, err}
	}
	if err = unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
		err = &Error{"Failed to remove existing socket: " + path, err}
	} else if err = unix.Fchmod(fd, mode); err != nil {
		err = &Error{"Failed to change socket permissions " + path, err}
	} else {
		// The mode of the descriptor becomes that of the name. It is not changed by
		// name: a container that has the directory could have put a link there.
		mask := unix.Umask(0)
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name})
		unix.Umask(mask)
		if err != nil {
			err = &Error{"Failed to bind socket " + path, err}
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// close takes the socket and the link to it away.
func (s *socket) close() {
	if s.dir >= 0 {
		unix.Unlinkat(s.dir, s.name, 0)
		unix.Close(s.dir)
	}
	if s.link != "" {
		unix.Unlink(s.link)
	}
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd, s.dir, s.link = -1, -1, ""
}
