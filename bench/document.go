package bench

import (
	_ "embed"
	"os"
	"strings"
	"text/template"
)

//go:embed document.md
var documentText string

// A reason says why a target was missed, if it was. It is kept with the name of
// the target, and shown as long as one of that name is missed.
type reason struct{ Name, Reason string }

var reasons = []reason{
	{"signal path", `a Go program that does nothing already takes more than three quarters of what is wanted (the limit in the tables of kill
  and state). What is above it is a third of a millisecond: the state directory, a connection or a lock, a look at freezer and init, the
  journal, and the signal itself; a quarter of that are the pages of memory that it touches. crun is at its best on a quiet machine; on a
  busy one the same figures were 0.47 to 0.50.`},
	{"cost of wrapping", `a Go program that does nothing but become the runtime (execve) costs 1.3 ms of CPU time on this machine, one that
  starts it and waits 1.6 to 1.9 ms. What gracerun does besides, the state directory, the record and the journal of the container, is 0.1
  to 0.4 ms; part of it is done while the runtime runs. What it costs in CPU time hardly depends on what is wrapped; the wall time does
  when other processes want the processors, such as the threads of a runtime that is written in Go too. Create of these has a kernel's
  wait in it: the first process that is moved to a cgroup waits for an RCU grace period, one that is moved soon after another does not
  (cgroup_threadgroup_rwsem), so that the same create takes 11 ms or 18. On the same machine, with a process that was moved to and fro
  every 2 ms, wrapping added 1.5 ms to create of crun and runc, and 1.6 to 1.9 to that of gracerun-native, in each of two runs.`},
	{"a life under a monitor", `delete is a process of gracerun beside that of the runtime, of which a Go program that does nothing is half (the
  limit in the tables of kill and state); the other half is what a delete must do after the runtime's: ask whether the container may go, and
  keep its journal. start does without the runtime, and create and exec without gracerun. What is left of those two above conmon is the
  start of the Go runtime, against that of the dynamic linker.`},
	{"many in a row", `a monitor that ends appends four lines to its journal, writes its record anew, and takes down the Go runtime with its
  threads: the table has the CPU time of all monitors. Both wait for the same besides, the end of the containers' processes and namespaces,
  on the same two processors.`},
	{"log throughput", `it would need more than there is. Moving the bytes from a pipe into a file, without looking at them, is two to six
  times as fast as conmon here, and the log has 45 bytes more for each line. gracemon moves each byte three times: from the
  pipe into a spool that outlives it, so that its own death loses none, from there with its stamp to a buffer, and into the log. A second
  thread does the last of these, so that it takes both processors; the container that writes has one of them too. Where a container writes line by line it is the writer that cannot write faster: into a pipe
  that has room for everything it was less than three times as fast as conmon makes it here.`},
	{"log beside a copy", `the copy loses what it has read when it dies, and adds no stamps. For a GiB of lines of 100 bytes gracemon takes 1.0 to
  1.1 s of CPU time, the copy 0.6, measured beside each other on a busy machine: 0.65 are the write of 1.45 GiB, 0.2 the stamps, 0.25 the
  splice to the spool. With longer lines what is left is the spool, 0.2 s. The second thread that writes makes up for it where there is a
  processor for it: 1.4 times the rate of one thread with lines of 100 bytes there. With the container that writes and another program there
  is none on two processors.`},
	{"a container's time", `two processors are shared by the container, its monitor and what else runs. In three runs of this section the
  same gracemon took 120 to 181 MiB of lines of 100 bytes in a second, which was 0.94 to 1.42 times what conmon took in that run.`},
	{"log cost", `0.2 times the CPU time of conmon is less than splice(2) needs to move the same bytes once, unstamped, from a pipe of
  1 MiB. What is left above that is the stamp of each line and the larger file: four fifths of it all are splice(2) and write(2), and
  a program in C that only reads, stamps and writes, and loses what it has read when it dies, needs nine tenths of it. Where lines are
  written one by one, and the cost is in waking up, the target can be met: gracemon then looks once a millisecond.`},
	{"memory", `the Go runtime has a span of 8 KiB for each size that was ever allocated, two of whose pages are touched as soon as it holds
  one pointer, and stacks for three threads of its own. A Go program that only waits in epoll has 410 KiB of its own. GODEBUG=sbrk=1
  would bring gracemon to 380, but one start in 140 dies of it (the random first address of the heap can leave no room for the first stack),
  and it aligns too little for the locks of the runtime. Asleep
  (docs/gracemon.md) a supervisor has 14 KiB; one process for many containers was measured, and is not what Podman and CRI-O can live with.`},
	{"exit", `both take what is left in the streams and sync the log before they write the exit file. gracemon also looks whether
  anybody is left in the cgroup, which is one small file, and writes two lines of its journal; all that it closes it closes afterwards.
  That is twenty microseconds, and less than two runs of this table differ by.`},
}

// WriteDocument writes docs/performance.md, and the figures beside it as JSON.
func (r *Report) WriteDocument(file string) error {
	t, err := template.New("document").Parse(documentText)
	if err != nil {
		return err
	}
	var results, targets, text strings.Builder
	if err := r.WriteMarkdown(&results); err != nil {
		return err
	}
	verdicts := r.verdicts()
	verdicts.title = ""
	verdicts.writeMarkdown(&targets)
	err = t.Execute(&text, map[string]any{
		"Head": r.head(), "Programs": r.Programs, "Notes": r.Notes,
		"Grace": drainGrace, "Saves": drainSaves,
		"Targets": strings.TrimSpace(targets.String()) + "\n", "Missed": r.missed(),
		"Results": strings.TrimSpace(results.String()),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		return err
	}
	var figures strings.Builder
	if err := r.WriteJSON(&figures); err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(file, ".md")+".json", []byte(figures.String()), 0o644)
}

// missed gives the reasons for what was missed; a target without one says so.
func (r *Report) missed() (all []reason) {
	seen := map[string]bool{}
	for _, v := range r.Targets {
		if v.Met || v.Found == "" || seen[v.Name] {
			continue
		}
		seen[v.Name] = true
		why := reason{v.Name, "not explained yet"}
		for _, known := range reasons {
			if known.Name == v.Name {
				why = known
			}
		}
		all = append(all, why)
	}
	return all
}
