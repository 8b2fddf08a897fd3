package podman

import "strings"

var execCases = []testCase{
	{
		name:    "exec: exit status and both outputs",
		telling: true,
		do: func(u *user) {
			u.up(serve)
			for _, status := range []string{"0", "7", "137", "143"} {
				u.note("%s", u.do("exec", u.name, "sh", "-c", "echo out; echo err >&2; exit "+status))
			}
			u.note("killed: %s", u.do("exec", u.name, "sh", "-c", "kill -KILL $$"))
			c := u.do("exec", u.name, "/nonexistent")
			u.note("no such program: %d, complains: %v", c.code, strings.Contains(strings.ToLower(c.err), "no such file or directory"))
		},
		want: "7 \"out\\n\" \"err\\n\"\n137 \"out\\n\" \"err\\n\"\n143 \"out\\n\" \"err\\n\"\nkilled: 137 \"\" \"\"\nno such program: 127, complains: true",
	},
	{
		name: "exec: input, environment, user, directory",
		do: func(u *user) {
			u.up(serve)
			u.note("%s", u.feed(strings.NewReader("abc"), "exec", "--interactive", u.name, "cat"))
			u.note("%s", u.do("exec", "--env=A=b", "--workdir=/tmp", "--user=12:34", u.name, "sh", "-c", "echo $A; pwd; id -u; id -g"))
		},
		want: "0 \"abc\" \"\"\n0 \"b\\n/tmp\\n12\\n34\\n\" \"\"",
	},
	{
		name: "exec: a mebibyte",
		do: func(u *user) {
			u.up(serve)
			c := u.do("exec", u.name, "sh", "-c", oneMebibyte)
			u.note("%d %s", c.code, sum(c.out))
		},
		want: "0 1048576 bytes",
	},
	{
		name:    "exec: terminal",
		telling: true,
		do: func(u *user) {
			u.up(serve)
			t := u.sit("exec", "--interactive", "--tty", u.name, "sh", "-c", "echo ready; read line; stty size; echo got $line; exit 6")
			t.sees("ready")
			t.types("hello\n")
			code, text := t.leave()
			u.note("%d %q", code, text)
		},
		want: `6 "ready\r\nhello\r\n30 100\r\ngot hello\r\n"`,
	},
	{
		name: "exec: detached",
		do: func(u *user) {
			u.up(serve)
			u.ok("exec", "--detach", u.name, "sh", "-c", "echo inside > /tmp/sign")
			u.until("the exec has done its work", func() bool { return u.do("exec", u.name, "cat", "/tmp/sign").out == "inside\n" })
			u.note("inside")
		},
		want: "inside",
	},
	{
		name: "exec: the container ends meanwhile",
		do: func(u *user) {
			u.up(serve)
			r := u.begin(nil, "exec", u.name, "sh", "-c", "echo begun > /tmp/sign; sleep 1000")
			u.until("the exec has begun", func() bool { return u.do("exec", u.name, "cat", "/tmp/sign").out == "begun\n" })
			u.ok("kill", u.name)
			u.note("%d, waited: %s", u.finish(r).code, u.waited())
		},
		want: "137, waited: 137",
	},
}
