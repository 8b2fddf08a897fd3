package statedir

import (
	"hash/fnv"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultKey stands for the runtimes' own default roots.
const defaultKey = "default"

// runtimes keep their containers in a directory of their name in /run, or in
// $XDG_RUNTIME_DIR, where --root does not say otherwise.
var runtimes = [...]string{"crun", "runc", "gracerun-native"}

// longest is the length in bytes past which a key is shortened: a name has 255 at
// most, and some of them are for who makes temporary ones.
const longest = 200

// Key gives the name under which containers of that runtime root are kept: ids
// are unique within a root only. root is the value of the runtime's --root, or
// "" if it was not given; one that is not absolute is taken from the current
// directory, as runc does.
//
// However a root is written it is one: the name is that of the directory to which the
// path leads, and the root that a runtime has by default is as if it was not given.
// The name is the path as systemd escapes paths (systemd.unit(5), "String Escaping for
// Inclusion in Unit Names"), or the beginning of that and a hash.
func Key(root string) (string, error) {
	if root == "" {
		return defaultKey, nil
	}
	root, err := absolute(root)
	if err != nil {
		return "", err
	}
	dir := resolve(root)
	if isDefault(dir) {
		return defaultKey, nil
	}
	key := escapeKey(dir)
	if len(key) > longest {
		hash := fnv.New128a()
		_, _ = hash.Write([]byte(dir))
		const hex = "0123456789abcdef"
		key = key[:longest/2] + "+" // which no escaped path has
		for _, b := range hash.Sum(nil) {
			key += string(hex[b>>4]) + string(hex[b&15])
		}
	}
	return key, nil
}

// IsDefault reports whether the root is one that a runtime has without --root, with the
// directory to which it leads.
func IsDefault(root string) (dir string, is bool) {
	if root == "" {
		return "", false
	}
	root, err := absolute(root)
	if err != nil {
		return "", false
	}
	dir = resolve(root)
	return dir, isDefault(dir)
}

// oldKey is the key that version 0.8 gave a root, by the text of its path.
func oldKey(root string) (string, error) {
	if root == "" {
		return defaultKey, nil
	}
	root, err := absolute(root)
	return escapeKey(root), err
}

func absolute(root string) (string, error) {
	if root[0] != '/' {
		wd, err := unix.Getwd()
		if err != nil {
			return "", &Error{Op: "find the current directory for the runtime root", Path: root, Err: err}
		}
		root = wd + "/" + root
	}
	return path.Clean(root), nil
}

// resolve gives the path without symbolic links of the directory to which a clean path
// leads. What of it is not there yet stays as it is.
func resolve(root string) string {
	for dir, rest := root, ""; ; dir, rest = path.Dir(dir), "/"+path.Base(dir)+rest {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil {
			var buf [unix.PathMax]byte
			n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf[:])
			unix.Close(fd)
			if found := string(buf[:max(n, 0)]); err == nil && found != "" && found[0] == '/' {
				return path.Clean(found + rest)
			}
			return root
		}
		if dir == "/" {
			return root
		}
	}
}

func isDefault(dir string) bool {
	parent, name := path.Split(dir)
	for _, runtime := range runtimes {
		if name == runtime {
			xdg, _ := unix.Getenv("XDG_RUNTIME_DIR")
			return parent == "/run/" || xdg != "" && xdg[0] == '/' && parent == resolve(path.Clean(xdg))+"/"
		}
	}
	return false
}

func escapeKey(dir string) string {
	key := escape(dir)
	if key == defaultKey {
		// The path /default. Escaping a letter changes nothing for who reads
		// the name back, and keeps it apart.
		key = `\x64` + key[1:]
	}
	return key
}

func escape(dir string) string {
	dir = strings.Trim(dir, "/")
	if dir == "" {
		return "-"
	}
	const hex = "0123456789abcdef"
	var name strings.Builder
	for i := range len(dir) {
		switch c := dir[i]; {
		case c == '/':
			name.WriteByte('-')
		case plain(c) && c != '-' && c != '+' && !(c == '.' && i == 0), c == ':':
			name.WriteByte(c)
		default:
			name.WriteString(`\x`)
			name.WriteByte(hex[c>>4])
			name.WriteByte(hex[c&15])
		}
	}
	return name.String()
}
