package monitor

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// attach connects as Podman and CRI-O do.
func (c *container) attach() *net.UnixConn {
	c.t.Helper()
	// A path that fits: through the directory's descriptor.
	dir, err := os.Open(c.bundle)
	c.must(err)
	defer dir.Close()
	path := fmt.Sprintf("/proc/self/fd/%d/attach", dir.Fd())
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	c.must(err)
	c.must(conn.SetDeadline(time.Now().Add(patience)))
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// received reads packets until the end of the stream: "1:" is stdout, "2:"
// stderr, before each packet's text.
func (c *container) received(conn *net.UnixConn) string {
	c.t.Helper()
	var all strings.Builder
	buf := make([]byte, 8193)
	for {
		n, err := conn.Read(buf)
		if n == 0 || err != nil {
			return all.String()
		}
		fmt.Fprintf(&all, "%d:%s", buf[0]-1, buf[1:n])
	}
}

// bothStacks runs a case under gracemon and conmon; what it gives must be the same.
func bothStacks(t *testing.T, script, want string, run func(c *container) string) {
	ours, theirs := stacks("runc")
	for _, s := range []*stack{ours, theirs} {
		t.Run(s.name, func(t *testing.T) {
			s.need(t)
			c := s.container(t, script)
			if got := run(c); got != want {
				t.Errorf("got %q, want %q; stderr: %s", got, want, c.stderr)
			}
		})
	}
}

func TestAttachedClient(t *testing.T) {
	bothStacks(t, `read line; echo "out $line"; read line || echo end`, "1:out hello\n1:end\n", func(c *container) string {
		c.created("-i", "--full-attach")
		conn := c.attach()
		c.call("start", c.id)
		_, err := conn.Write([]byte("hello\n"))
		c.must(err)
		c.says("stdout F out hello")
		c.must(conn.CloseWrite())
		got := c.received(conn)
		c.exitFile()
		return got
	})
}

// Podman's `exec -it` and `exec -i`: nothing runs before the client has attached.
func TestExecWaitsForItsClient(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		want := "attach pipe {\"data\": 0}, sync pipe {\"data\": PID} {\"data\": 6}, client 1:inside\n"
		args := []string{"--api-version", "1", "-u", "exec", "--full-attach", "--exec-attach"}
		if terminal {
			want = strings.ReplaceAll(want, "inside\n", "inside\r\n")
			args = append(args, "-t")
		}
		bothStacks(t, "sleep 1000", want, func(c *container) string {
			c.started()
			attachReader, attachWriter, err := os.Pipe()
			c.must(err)
			defer attachReader.Close()
			startReader, startWriter, err := os.Pipe()
			c.must(err)
			bundle := c.dir + "/exec-bundle"
			c.must(os.MkdirAll(bundle, 0o755))
			c.files = []*os.File{attachWriter, startReader}
			c.env = []string{"_OCI_ATTACHPIPE=3", "_OCI_STARTPIPE=4"}
			_, err = startWriter.Write([]byte{0}) // leave to begin
			c.must(err)
			e, code := c.exec("echo inside; exit 6", append(args, "-b", bundle)...)
			c.expectStatus(code, 0)
			attachWriter.Close()
			startReader.Close()
			line, err := bufio.NewReader(attachReader).ReadString('\n')
			c.must(err)
			if exists(e.pidfile()) {
				c.t.Error("it runs before its client has attached")
			}
			e.bundle = bundle
			conn := e.attach()
			_, err = startWriter.Write([]byte{0}) // the client is there
			c.must(err)
			startWriter.Close()
			got := fmt.Sprintf("attach pipe %s, sync pipe %s ", strings.TrimSpace(line), e.message())
			got += e.message()
			return got + ", client " + e.received(conn)
		})
	}
}

func TestExitDelay(t *testing.T) {
	bothStacks(t, "exit 3", "the exit file comes first; one two words exit file: 3", func(c *container) string {
		c.started(append(c.exitCommand(), "--exit-delay", "1")...)
		c.exitFile()
		at := time.Now()
		c.until("the exit command has run", func() bool { return c.exitCommandSaw() != "" })
		if after := time.Since(at); after < 500*time.Millisecond {
			c.t.Errorf("the exit command comes %v after the exit file", after)
		}
		return "the exit file comes first; " + c.exitCommandSaw()
	})
}

// What a container tells by sd_notify(3) reaches the host's service manager, as
// far as it may.
func TestNotify(t *testing.T) {
	bothStacks(t, "sleep 1000", "READY=1", func(c *container) string {
		c.must(os.MkdirAll(c.bundle+"/notify", 0o755))
		host, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: c.dir + "/host.sock", Net: "unixgram"})
		c.must(err)
		defer host.Close()
		c.created("--sdnotify-socket", c.dir+"/host.sock")
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: c.bundle + "/notify/notify.sock", Net: "unixgram"})
		c.must(err)
		defer conn.Close()
		_, err = conn.Write([]byte("MAINPID=1\nREADY=1\nFDSTORE=1"))
		c.must(err)
		c.must(host.SetReadDeadline(time.Now().Add(patience)))
		buf := make([]byte, 1000)
		n, err := host.Read(buf)
		c.must(err)
		return string(buf[:n])
	})
}

func TestResize(t *testing.T) {
	bothStacks(t, `trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done`, "stdout F 24 80\r", func(c *container) string {
		c.spec.Process.Terminal = true
		c.created("-t")
		c.call("start", c.id)
		c.says("stdout F up\r")
		ctl, err := os.OpenFile(c.bundle+"/ctl", os.O_WRONLY, 0)
		c.must(err)
		_, err = ctl.WriteString("1 24 80\n")
		c.must(err)
		ctl.Close()
		c.exitFile()
		lines := c.lines()
		return lines[len(lines)-1]
	})
}

// A client that does not read holds up neither container nor log nor exit.
func TestStuckClient(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, `echo up; read line; seq 1 300000; exit 4`)
	c.created("-i", "--full-attach")
	c.call("start", c.id)
	c.says("stdout F up")
	stuck := c.attach() // it watches, and does not read
	other := c.attach()
	_, err := other.Write([]byte("go\n"))
	c.must(err)
	c.expect("exit file", c.exitFile(), "4")
	if lines := c.lines(); lines[len(lines)-1] != "stdout F 300000" {
		t.Errorf("the log ends with %q", lines[len(lines)-1])
	}
	stuck.Close()
	other.Close()
}
