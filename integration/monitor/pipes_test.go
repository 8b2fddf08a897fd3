package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// count is how many lines each stream has: more than a pipe takes.
const count = 20000

// writer writes them, and then, when it may, one for each line that it reads, until
// the end of its input: one that reads while nobody else has it sees its end.
var writer = fmt.Sprintf(`write() { i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; echo $i >&2; done; while ! [ -e /data/read ]; do sleep 0.02; done; while read line; do echo "$line"; done; }
`, count)

// TestWithoutAKeeper: whatever a container does with its descriptors and whoever it
// is, a supervisor that nobody has left anything finds its streams, and goes on with
// them at the very byte.
func TestWithoutAKeeper(t *testing.T) {
	cases := []struct {
		name   string
		script string
		spec   func(spec *specs.Spec)
	}{
		{name: "as it was made", script: "write"},
		{name: "a child alone has it", script: "exec 3<&0; write <&3 3<&- & exec >&- 2>&- <&- 3<&-; wait"},
		{name: "as other descriptors", script: "exec 5<&0 6>&1 7>&2 <&- >&- 2>&-; write <&5 >&6 2>&7"},
		{name: "another user", script: "write", spec: func(spec *specs.Spec) { spec.Process.User = specs.User{UID: 1000, GID: 1000} }},
		{name: "it has locked its streams", script: "chmod 0 /proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2; write"},
		{name: "another user namespace", script: "write", spec: func(spec *specs.Spec) {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping, mapping
			spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == "devpts" })
		}},
	}
	for _, runtime := range []string{"runc", "crun"} {
		ours, _ := stacks(runtime)
		for _, test := range cases {
			t.Run(runtime+"/"+test.name, func(t *testing.T) {
				ours.need(t)
				c := ours.container(t, writer+test.script)
				c.env = []string{"GRACEMON_KEEPER=off", "GRACEMON_SLEEP=off"}
				if test.spec != nil {
					test.spec(c.spec)
					c.must(os.Chmod(filepath.Dir(c.dir), 0o755)) // t.TempDir is for its owner alone
				}
				c.started("-i")
				for _, size := range []int64{1, 200 << 10} {
					c.until("the log grows", func() bool {
						info, err := os.Stat(c.log)
						return err == nil && info.Size() >= size
					})
					c.succeed()
				}
				// Its output is whole, and its input goes on, and ends once.
				c.must(os.WriteFile(c.dir+"/read", nil, 0o644))
				conn := c.attach()
				_, err := conn.Write([]byte("heard\n"))
				c.must(err)
				c.says("stdout F heard")
				c.must(conn.CloseWrite())
				c.exitFile()
				at := map[string]int{}
				for _, line := range c.lines() {
					stream, text, _ := strings.Cut(line, " F ")
					if text == "heard" {
						continue
					}
					if at[stream]++; text != fmt.Sprint(at[stream]) {
						t.Fatalf("line %d of %s is %q", at[stream], stream, line)
					}
				}
				if at["stdout"] != count || at["stderr"] != count {
					t.Errorf("there are %v lines, want %d of each", at, count)
				}
			})
		}
	}
}

// succeed kills the supervisor and starts another.
func (c *container) succeed() {
	c.t.Helper()
	c.must(unix.Kill(c.monitor, unix.SIGKILL))
	c.gone()
	recover := c.stack.command("/", c.stack.monitor, "--recover", c.state().Path())
	if output, err := recover.CombinedOutput(); err != nil {
		c.t.Fatalf("--recover: %v: %s", err, output)
	}
	text, err := os.ReadFile(c.dir + "/conmon-pidfile") // it may have the number of its predecessor
	c.must(err)
	c.monitor, err = strconv.Atoi(string(text))
	c.must(err)
}

// An input that a client has ended stays so, whoever goes on.
func TestInputEndsOnce(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	for _, keeper := range []string{"on", "off"} {
		t.Run("keeper "+keeper, func(t *testing.T) {
			c := ours.container(t, "while ! [ -e /data/read ]; do sleep 0.02; done; cat; echo end")
			c.env = []string{"GRACEMON_KEEPER=" + keeper, "GRACEMON_SLEEP=off"}
			c.started("-i")
			conn := c.attach()
			c.must(conn.CloseWrite())
			c.until("its supervisor has heard", func() bool { return c.writers() == 0 })
			if keeper == "off" {
				c.succeed()
			} else {
				c.must(unix.Kill(c.monitor, unix.SIGKILL))
			}
			c.must(os.WriteFile(c.dir+"/read", nil, 0o644))
			c.says("stdout F end")
			if exit := c.exitFile(); exit != "0" {
				t.Errorf("exit status %s", exit)
			}
			c.monitor = 0
		})
	}
}

// writers is how many can write to the container's stdin, -1 if nobody knows.
func (c *container) writers() int {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/fd/0", c.pid()), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, int(20*time.Millisecond/time.Millisecond)); err != nil {
		return -1
	}
	if fds[0].Revents&unix.POLLHUP != 0 {
		return 0
	}
	return 1
}
