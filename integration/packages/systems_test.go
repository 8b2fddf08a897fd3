package packages

import (
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"gracerun.io/internal/debian"
)

// cache is where the releases are kept that systems run on.
const cache = "../../.work/debian"

var releases = map[string]string{"bookworm": "Debian 12", "trixie": "Debian 13"}

// system is a clean Debian with Podman on it, and an image to run.
type system struct {
	t *testing.T
	*debian.System
}

func startSystem(t *testing.T, release, shared string) *system {
	t.Helper()
	tree, err := debian.Get(t.Context(), cache, release)
	if errors.Is(err, debian.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := tree.Start(shared)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &system{t, s}
}

// try runs a line of shell.
func (s *system) try(line string) (string, error) {
	out, err := s.Command("timeout", "180", "sh", "-c", line).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (s *system) run(line string) string {
	s.t.Helper()
	out, err := s.try(line)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

func (s *system) want(line, want string) {
	s.t.Helper()
	if got := s.run(line); got != want {
		s.t.Errorf("%s: %q, want %q", line, got, want)
	}
}

func (s *system) until(what string, is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// install has apt install a package from /shared.
func (s *system) install(deb string) string {
	s.t.Helper()
	return s.run("apt-get install -q -y --allow-downgrades /shared/" + filepath.Base(deb))
}

// own is what Podman needs to be told on a machine that has no systemd and whose
// cgroups have no controllers; all else is Debian's, and the package's own example.
const own = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "none"
apparmor_profile = ""
pids_limit = 0
privileged = true
log_driver = "k8s-file"
[engine]
lock_type = "file"
cgroup_manager = "cgroupfs"
events_logger = "file"
conmon_env_vars = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GRACEMON_SLEEP=1s"]
`

func (s *system) podman() {
	s.t.Helper()
	s.run("mkdir -p /etc/containers/containers.conf.d && cat >/etc/containers/containers.conf.d/99-test.conf <<'END'\n" + own + "END\n")
	s.run("cp /usr/share/doc/gracerun/examples/50-gracerun-containers.conf /etc/containers/containers.conf.d/")
	s.image()
	s.run("tar -C /root/image -c . | podman --storage-driver vfs import --quiet - box")
}

// podman run, with the arguments that this machine takes.
const podmanRun = "podman run --privileged --pids-limit 0 "

// worker is a container that says when it runs, counts its stop signals, and takes a
// moment to end.
const worker = `box sh -c 'trap "echo stopping; sleep 1; echo saved; exit 3" TERM; echo running; while :; do sleep 0.1; done'`

// supervisor is the process number of a container's monitor.
func (s *system) supervisor(name string) string {
	return s.run("podman inspect --format '{{.State.ConmonPid}}' " + name)
}

// TestOnDebian installs, upgrades, removes and purges the package while containers run.
func TestOnDebian(t *testing.T) {
	if os.Getenv("GRACERUN_PACKAGES_TEST") == "" {
		t.Skip("takes some minutes: make test-packages")
	}
	shared := t.TempDir()
	debs := map[string]string{}
	for _, v := range []string{before, version} {
		from := one(t, build(t, v, "deb", runtime.GOARCH), ".deb")
		debs[v] = filepath.Join(shared, filepath.Base(from))
		if out, err := exec.Command("cp", from, debs[v]).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for release, name := range releases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testOn(startSystem(t, release, shared), debs[before], debs[version])
		})
	}
}

func testOn(s *system, before, now string) {
	t := s.t
	t.Helper()

	// A first installation.
	if said := s.install(before); strings.Contains(said, "gracerun:") {
		t.Errorf("it complains: %s", said)
	}
	if got := s.run("gracerun --version | tail -n 1"); got != "gracerun: v0.8.99" {
		t.Errorf("installed is %q", got)
	}
	s.podman()
	s.want(podmanRun+"--rm box echo hello 2>/dev/null", "hello")
	if out, err := s.try(podmanRun + "--rm box sh -c 'echo last words; exit 7' 2>/dev/null"); out != "last words" || exitCode(err) != 7 {
		t.Errorf("a container that exits with 7: %q, %v", out, err)
	}
	s.want("podman ps --all --quiet | wc -l", "0")

	// Containers that live through all of what follows: one that is idle, whose
	// supervisor sleeps, and one that writes.
	s.run(podmanRun + "--detach --name idle " + worker)
	s.run(podmanRun + `--detach --name stopped ` + worker)
	s.run(podmanRun + `--detach --name killed ` + worker)
	s.run(podmanRun + `--detach --name busy box sh -c 'trap "exit 4" TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done'`)
	names := []string{"idle", "stopped", "killed", "busy"}
	supervisors := map[string]string{}
	for _, name := range names {
		supervisors[name] = s.supervisor(name)
	}
	for _, name := range names[:3] {
		s.until(name+" runs", func() bool { return strings.Contains(s.run("podman logs "+name), "running") })
	}

	// The node's owner has changed the configuration.
	s.run(`sed -i 's/^grace .*/grace = "41s"/' /etc/gracerun/config.toml`)
	changed := s.run("cat /etc/gracerun/config.toml")
	if !strings.Contains(changed, `grace = "41s"`) {
		t.Fatalf("no grace in %s", changed)
	}

	// An upgrade, a rollback, and the upgrade again.
	for _, step := range []struct{ deb, version string }{{now, version}, {before, "v0.8.99"}, {now, version}} {
		if said := s.install(step.deb); strings.Contains(said, "still run the version before") {
			t.Errorf("to %s: %s", step.version, said)
		}
		s.want("gracerun --version | tail -n 1", "gracerun: "+step.version)
		s.want("cat /etc/gracerun/config.toml", changed)
		installed := s.run("stat --format %d:%i /usr/bin/gracemon")
		for _, name := range names {
			if got := s.supervisor(name); got != supervisors[name] {
				t.Errorf("%s: its supervisor was %s and is %s", name, supervisors[name], got)
			}
			s.want("stat --dereference --format %d:%i /proc/"+supervisors[name]+"/exe", installed)
			s.want("podman inspect --format '{{.State.Status}}' "+name, "running")
		}
	}
	s.want("podman stop --time 30 stopped", "stopped")
	s.want("podman wait stopped", "3")
	s.want("podman logs stopped", "running\nstopping\nsaved")
	s.want("podman rm stopped", "stopped")
	wrote := len(strings.Fields(s.run("podman logs busy")))
	s.until("busy goes on writing", func() bool { return len(strings.Fields(s.run("podman logs busy"))) > wrote })

	// Away with the package, not with the containers: each is named, with a call that
	// stops it.
	ids := map[string]string{}
	for _, name := range []string{"idle", "killed", "busy"} {
		ids[name] = s.run("podman inspect --format '{{.Id}}' " + name)
	}
	inits := map[string]string{}
	for name := range ids {
		inits[name] = s.run("podman inspect --format '{{.State.Pid}}' " + name)
	}
	said := s.run("apt-get remove -q -y gracerun")
	for _, program := range programs {
		if _, err := os.Stat(s.Path("/usr/bin/" + program)); err == nil {
			t.Errorf("%s is still there", program)
		}
	}
	s.want("cat /etc/gracerun/config.toml", changed)
	if !strings.Contains(said, "50-gracerun-containers.conf still names its programs") {
		t.Errorf("the removal does not say that Podman has no runtime then:\n%s", said)
	}
	stops := map[string]string{}
	for name, id := range ids {
		found := regexp.MustCompile(`(?m)^ +(kill -TERM \d+) +# container ` + id + `\r?$`).FindStringSubmatch(said)
		if found == nil || found[1] != "kill -TERM "+supervisors[name] {
			t.Fatalf("the removal says of %s (%s) %q:\n%s", name, supervisors[name], found, said)
		}
		stops[name] = found[1]
		s.run("kill -0 " + inits[name])
	}
	log := func(name string) string {
		return s.run("cat /var/lib/containers/storage/*-containers/" + ids[name] + "/userdata/ctr.log")
	}
	s.run(stops["idle"])
	s.until("idle has ended", func() bool { _, err := s.try("kill -0 " + inits["idle"]); return err != nil })
	s.until("its log is whole", func() bool { return strings.Contains(log("idle"), "saved") })
	if got := strings.Count(log("idle"), "stopping"); got != 1 {
		t.Errorf("idle was told to stop %d times:\n%s", got, log("idle"))
	}
	// A supervisor that is killed now has a successor all the same: the keeper has a copy
	// of the program. The call that was named may be of no use then, but the container
	// is not lost.
	s.run("kill -KILL " + supervisors["killed"])
	s.until("killed has a successor", func() bool {
		out, _ := s.try("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c -x -F " + ids["killed"])
		n, _ := strconv.Atoi(out)
		return n > 0
	})
	s.run("kill -0 " + inits["killed"])

	// A return: what lives is there again.
	s.install(now)
	s.want("cat /etc/gracerun/config.toml", changed)
	s.want("podman stop --time 30 killed", "killed")
	s.want("podman inspect --format '{{.State.ExitCode}}' killed", "3")
	s.want("podman inspect --format '{{.State.ExitCode}}' idle", "3")
	s.want("podman stop --time 30 busy", "busy")
	s.want("podman inspect --format '{{.State.ExitCode}}' busy", "4")
	for name := range ids {
		s.want("podman rm "+name, name)
	}

	// Gone for good, and Podman is as it was.
	s.run("rm /etc/containers/containers.conf.d/50-gracerun-containers.conf")
	if said := s.run("apt-get purge -q -y gracerun"); strings.Contains(said, "gracerun: ") {
		t.Errorf("nothing of it is left, and the removal says:\n%s", said)
	}
	for _, left := range []string{"/etc/gracerun", "/usr/share/doc/gracerun", "/usr/bin/gracerun"} {
		if _, err := os.Stat(s.Path(left)); err == nil {
			t.Errorf("%s is left after a purge", left)
		}
	}
	s.want(podmanRun+"--rm box echo hello 2>/dev/null", "hello")
}

// TestReproducible: two builds of one commit are the same, and the other architecture's
// package has its programs.
func TestReproducible(t *testing.T) {
	if os.Getenv("GRACERUN_PACKAGES_TEST") == "" {
		t.Skip("takes some minutes: make test-packages")
	}
	first, second := build(t, version, "deb rpm", "amd64"), build(t, version, "deb rpm", "amd64")
	for _, ending := range []string{".deb", ".rpm"} {
		a, b := one(t, first, ending), one(t, second, ending)
		if out, err := exec.Command("cmp", a, b).CombinedOutput(); err != nil {
			t.Errorf("two builds of one commit differ: %s", out)
		}
	}
	foreign := build(t, version, "deb rpm", "arm64")
	if got := strings.TrimSpace(output(t, "dpkg-deb", "-f", one(t, foreign, ".deb"), "Architecture")); got != "arm64" {
		t.Errorf("the architecture is %s", got)
	}
	root := t.TempDir()
	output(t, "dpkg-deb", "-x", one(t, foreign, ".deb"), root)
	for _, name := range programs {
		f, err := elf.Open(filepath.Join(root, "usr/bin", name))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != elf.EM_AARCH64 {
			t.Errorf("%s is for %v", name, f.Machine)
		}
		f.Close()
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}
