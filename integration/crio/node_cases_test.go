package crio

// What is asked of the whole node.
var nodeCases = []testCase{
	{
		name: "node: CRI-O is stopped and started anew",
		do: func(u *user) {
			p := u.pod(withInfra)
			c := p.run([]string{"serve", "-save", "500ms", "-code", "3"})
			_, before := c.inspect()
			u.must(u.EndCRIO(15))
			u.must(u.StartCRIO())
			s, after := c.inspect()
			u.note("%s, the same init: %v", s.State, before == after && before != 0)
			u.ok("stop", "--timeout", "30", c.id)
			c.saw(u)
			p.remove()
		},
		want:  "CONTAINER_RUNNING, the same init: true\n" + `heard "SIGTERM", saved 10, exit code 3`,
		alone: true,
	},
}
