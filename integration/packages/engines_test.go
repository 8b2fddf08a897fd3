package packages

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestEngines runs containers of containerd and Docker with gracerun, as docs/deploy.md
// says that they are told of it.
func TestEngines(t *testing.T) {
	if os.Getenv("GRACERUN_PACKAGES_TEST") == "" {
		t.Skip("takes some minutes: make test-packages")
	}
	shared := build(t, version, "deb", runtime.GOARCH)
	for release, name := range releases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSystem(t, release, shared)
			s.install(filepath.Base(one(t, shared, ".deb")))
			s.image()
			// The cgroups of the system have no controllers, which crun insists on.
			s.run(`sed -i 's,^#runtime = .*,runtime = "/usr/sbin/runc",' /etc/gracerun/config.toml`)
			t.Run("containerd", func(t *testing.T) { testContainerd(&system{t, s.System}) })
			t.Run("Docker", func(t *testing.T) { testDocker(&system{t, s.System}) })
		})
	}
}

// image makes a root file system of busybox.
func (s *system) image() {
	s.t.Helper()
	s.run("mkdir -p /root/image/bin && cp /bin/busybox /root/image/bin/ && for a in sh sleep echo cat; do ln -s busybox /root/image/bin/$a; done")
}

// daemon starts a program and waits until a call of it is answered.
func (s *system) daemon(start, call string) {
	s.t.Helper()
	s.run("(" + start + " >/tmp/daemon.log 2>&1 &)")
	s.until(call, func() bool { _, err := s.try(call); return err == nil })
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Log(s.try("tail -n 20 /tmp/daemon.log"))
		}
	})
}

// stops is what gracerun knows of a container's stops: caller, request and grace.
func (s *system) stops(id string) string {
	s.t.Helper()
	return s.run("gracerun list --stops | grep -F " + id + " | awk '{ print $3, $4, $5, $6 }'")
}

const taskSpec = `{"ociVersion": "1.0.2", "root": {"path": "/root/image"},
"process": {"args": ["sh", "-c", "trap 'echo TERM >>/told; sleep 1; exit 3' TERM; : >/told; while :; do sleep 0.1; done"], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
"annotations": {"io.gracerun.grace": "20s"},
"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]}}`

// testContainerd: annotations are heard, signals go through gracerun, exit statuses are
// containerd's, and a SIGKILL of somebody else is held.
func testContainerd(s *system) {
	t := s.t
	t.Helper()
	s.daemon("containerd", "ctr version")
	s.run("cat >/root/task.json <<'END'\n" + taskSpec + "\nEND")
	s.run("ctr run --runtime io.containerd.runc.v2 --runc-binary /usr/bin/gracerun --detach --config /root/task.json one")
	status := func() string { return s.run("ctr task ls | awk '$1 == \"one\" { print $3 }'") }
	if got := status(); got != "RUNNING" {
		t.Fatalf("the task is %q", got)
	}
	s.until("it runs", func() bool { _, err := s.try("test -e /root/image/told"); return err == nil })
	s.run("ctr task kill --signal TERM one")
	// Not its opener: held until the grace period is over, or the container has ended.
	began := time.Now()
	s.try("gracerun --root /run/containerd/runc/default kill one KILL")
	s.until("it has ended", func() bool { return status() == "STOPPED" })
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	s.want("cat /root/image/told", "TERM")
	if out, err := s.try("ctr task rm one"); exitCode(err) != 3 && !strings.Contains(out, "exit code 3") {
		t.Errorf("containerd says of its exit %q, %v", out, err)
	}
	s.run("ctr container rm one")
	if got := s.stops("one"); got != "containerd-shim-runc-v2 signal SIGTERM 20.0s" {
		t.Errorf("gracerun has seen %q", got)
	}
	if _, err := s.try("ls /run/gracerun/*/one"); err == nil {
		t.Error("its state directory is left")
	}
}

// testDocker: no annotations, so that the grace period is config.toml's for everybody
// but Docker itself, whose own deadline holds.
func testDocker(s *system) {
	t := s.t
	t.Helper()
	s.run(`mkdir -p /etc/docker && cat >/etc/docker/daemon.json <<'END'
{"runtimes": {"gracerun": {"path": "/usr/bin/gracerun"}}, "iptables": false, "bridge": "none", "storage-driver": "vfs"}
END`)
	s.daemon("dockerd", "docker version")
	s.run("tar -C /root/image -c . | docker import - box")
	const run = "docker run --runtime gracerun --network none "
	s.want(run+"--rm box echo hello", "hello")
	s.run(run + `--detach --name obedient box sh -c 'trap "echo TERM; sleep 1; echo saved; exit 3" TERM; echo running; while :; do sleep 0.1; done'`)
	s.run(run + `--detach --name deaf box sh -c 'trap "" TERM; echo running; while :; do sleep 0.1; done'`)
	for _, name := range []string{"obedient", "deaf"} {
		s.until(name+" runs", func() bool { return s.run("docker logs "+name) == "running" })
	}
	ids := map[string]string{"obedient": "", "deaf": ""}
	for name := range ids {
		ids[name] = s.run("docker inspect --format '{{.Id}}' " + name)[:12]
	}
	s.run("docker stop --time 20 obedient")
	s.want("docker logs obedient", "running\nTERM\nsaved")
	s.want("docker inspect --format '{{.State.ExitCode}}' obedient", "3")
	began := time.Now()
	s.run("docker stop --time 2 deaf")
	if took := time.Since(began); took < 2*time.Second || took > 20*time.Second {
		t.Errorf("docker stop --time 2 of one that ignores TERM took %v", took)
	}
	s.want("docker inspect --format '{{.State.ExitCode}}' deaf", "137")
	for name, id := range ids {
		if got := s.stops(id); got != "containerd-shim-runc-v2 signal SIGTERM 30.0s" {
			t.Errorf("gracerun has seen of %s %q", name, got)
		}
		s.run("docker rm " + name)
	}
	// Docker 25 and later hand annotations on, where they are asked to.
	if _, err := s.try("docker run --help | grep -e --annotation"); err != nil {
		return
	}
	id := s.run(run + "--detach --annotation io.gracerun.grace=7s box sh -c 'while :; do sleep 0.1; done'")[:12]
	s.run("docker stop --time 1 " + id)
	if got := s.stops(id); got != "containerd-shim-runc-v2 signal SIGTERM 7.0s" {
		t.Errorf("with an annotation gracerun has seen %q", got)
	}
	s.run("docker rm " + id)
}
