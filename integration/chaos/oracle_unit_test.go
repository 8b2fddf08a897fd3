package chaos

import (
	"strings"
	"testing"
	"time"
)

// good is a container to which nothing bad happened.
func good() *facts {
	s := time.Second
	f := &facts{
		setup: setup{Code: 7, After: 100, Grace: 5000, Policy: "observe"}, id: "x",
		made: 1 * s, ran: 2 * s, ended: 11 * s, status: "7", exit: "7", persisted: "7", commands: 1,
		counts:  counts{Lines: [2]uint64{60, 1}, Terms: 1, Heard: uint64(10 * s), Users: 1},
		deleted: &act{step: step{Do: "delete"}, begin: 12 * s, end: 13 * s},
	}
	f.acts = []*act{
		{step: step{Do: start}, begin: 1 * s, end: 2 * s},
		{step: step{Do: askState}, begin: 3 * s, end: 4 * s, out: `{"status":"running"}`},
		{step: step{Do: user}, begin: 5 * s, end: 6 * s},
		{step: step{Do: execute}, begin: 6 * s, end: 7 * s, out: "hello from within"},
		{step: step{Do: attach}, begin: 6 * s, end: 7 * s, got: "part of one\n" + lineOf(4) + lineOf(5) + lineOf(6)[:9]},
		{step: step{Do: stop, Time: 5000}, begin: 10 * s, end: 11 * s, out: "code=7"},
		{step: step{Do: askState}, begin: 12 * s, end: 12 * s, out: `{"status":"stopped"}`},
		f.deleted,
	}
	for n := uint64(1); n <= 60; n++ {
		f.record("stdout", lineOf(n))
	}
	f.record("stderr", lineOf(1))
	return f
}

func (f *facts) record(stream, line string) {
	if len(line) > 8192 {
		f.log = append(f.log, "T "+stream+" P "+line[:8192]+"\n"...)
		line = line[8192:]
	}
	f.log = append(f.log, "T "+stream+" F "+line...)
}

// killed is one that hears nothing, and was killed at its deadline.
func killed() *facts {
	f := good()
	f.setup.After, f.Grace = -1, 1000
	f.status, f.exit, f.persisted = "137", "137", "137"
	f.acts[5].Time, f.acts[5].out = 1000, "signal=9"
	return f
}

// The oracle says nothing of what is good, and finds each thing that is not.
func TestOracle(t *testing.T) {
	for name, f := range map[string]*facts{"good": good(), "killed": killed()} {
		if wrong := f.judge(); len(wrong) > 0 {
			t.Errorf("%s: %q", name, wrong)
		}
	}
	s := time.Second
	for want, harm := range map[string]func(f *facts){
		"start failed":                       func(f *facts) { f.acts[0].err = errTest },
		"started 2 times":                    func(f *facts) { f.acts[4].Do = startAgain },
		"after it was stopped":               func(f *facts) { f.acts[5].begin, f.acts[5].end = s/2, s/2 },
		"never ran":                          func(f *facts) { f.ran = 0; f.acts[5].begin = 12 * s },
		"it does not end":                    func(f *facts) { f.ended = 0 },
		"heard 2 times":                      func(f *facts) { f.Terms = 2 },
		"the stop signal was never heard":    func(f *facts) { f.Terms = 0 },
		"SIGUSR1 was heard 2 times":          func(f *facts) { f.Users = 2 },
		"delivered 1 times, and never heard": func(f *facts) { f.Users = 0 },
		"ended with 143: its program":        func(f *facts) { f.status, f.exit, f.persisted, f.acts[5].out = "143", "143", "143", "code=143" },
		"the exit file says \"0\"":           func(f *facts) { f.exit, f.persisted = "0", "0" },
		"the other \"\"":                     func(f *facts) { f.persisted = "" },
		"the exit command was run 0 times":   func(f *facts) { f.commands = 0 },
		"the exit command was run 2 times":   func(f *facts) { f.commands = 2 },
		"stop says \"code=0\"":               func(f *facts) { f.acts[5].out = "code=0" },
		"stop says nothing":                  func(f *facts) { f.acts[5].out, f.acts[5].said, f.acts[5].err = "", "EOF", errTest },
		"state took":                         func(f *facts) { f.acts[1].end = 60 * s },
		"it is running at 12.000":            func(f *facts) { f.acts[6].out = `{"status":"running"}`; f.acts[1].out = `{"status":"stopped"}` },
		"said to be running at 12":           func(f *facts) { f.acts[6].out = `{"status":"running"}` },
		"said to be stopped at 3":            func(f *facts) { f.acts[1].out = `{"status":"stopped"}` },
		"state: failed":                      func(f *facts) { f.acts[1].err, f.acts[1].said = errTest, "connection refused" },
		"usr1 failed while it ran":           func(f *facts) { f.acts[2].err = errTest },
		"exec says":                          func(f *facts) { f.acts[3].out = "hello from" },
		"where line 6 should be":             func(f *facts) { f.acts[4].got = "\n" + lineOf(4) + lineOf(5) + lineOf(7) },
		"left: /x":                           func(f *facts) { f.left = []string{"/x"} },
		"delete: failed":                     func(f *facts) { f.deleted.err = errTest },
		"59 are in the log":                  func(f *facts) { f.log = []byte(strings.Replace(string(f.log), "T stdout F "+lineOf(60), "", 1)) },
		"where line 9 of 60 should be":       func(f *facts) { f.log = []byte(strings.Replace(string(f.log), "T stdout F "+lineOf(9), "", 1)) },
		"where line 10 of 60 should be": func(f *facts) {
			f.log = []byte(strings.Replace(string(f.log), lineOf(9), lineOf(9)+"T stdout F "+lineOf(9), 1))
		},
		"stderr: 1 lines were written, 0 are":            func(f *facts) { f.log = []byte(strings.Replace(string(f.log), "T stderr F "+lineOf(1), "", 1)) },
		"where line 61 of 60 should be there is \"[no r": func(f *facts) { f.log = append(f.log, "torn\n"...) },
		"ended 25s after its deadline":                   func(f *facts) { f.ended = 40 * s },
	} {
		f := good()
		harm(f)
		if wrong := strings.Join(f.judge(), "\n"); !strings.Contains(wrong, want) {
			t.Errorf("want %q, found %q", want, wrong)
		}
	}
	for want, harm := range map[string]func(f *facts){
		"too early (grace of 1s":      func(f *facts) { f.ended -= 10 * time.Millisecond },
		"too early (nobody wanted":    func(f *facts) { f.acts[5].Do = term },
		"too early (kill KILL":        func(f *facts) { f.acts[5].Do = kill; f.ended = 9 * s },
		"does not hear ended with 0":  func(f *facts) { f.status, f.exit, f.persisted, f.acts[5].out = "0", "0", "0", "code=0" },
		"where line 61 of 60 should ": func(f *facts) { f.log = append(f.log, "T stdout P 62 ab\n"...) },
	} {
		f := killed()
		harm(f)
		if wrong := strings.Join(f.judge(), "\n"); !strings.Contains(wrong, want) {
			t.Errorf("want %q, found %q", want, wrong)
		}
	}
}

var errTest = testError{}

type testError struct{}

func (testError) Error() string { return "failed" }
