package cmdline

import (
	"strings"

	"gracerun.io/internal/version"
)

// Conmon is the version of conmon whose options and protocols gracemon has.
// Podman 4.3 wants 2.0.1 at least; CRI-O goes by it for --sync (2.0.19) and
// --log-global-size-max (2.1.2).
const Conmon = "2.2.1"

// versionText has two lines since Podman shows them as one, and the version of
// conmon as the third word since that is where CRI-O and Podman look for it.
func versionText() string {
	return "conmon version " + Conmon + "\ncommit: gracemon " + version.Version + "\n"
}

func help(table []option) string {
	var b strings.Builder
	b.WriteString("Usage:\n" +
		"  gracemon [OPTION…] - supervise a container in place of conmon\n\n" +
		"Help Options:\n")
	line(&b, &option{name: "help", short: 'h', help: "Show help options"})
	b.WriteString("\nApplication Options:\n")
	for i := range table {
		if table[i].help != "" {
			line(&b, &table[i])
		}
	}
	b.WriteString("\n")
	return b.String()
}

func line(b *strings.Builder, o *option) {
	left := "  "
	if o.short != 0 {
		left += "-" + string(rune(o.short)) + ", "
	}
	left += "--" + o.name
	if o.value != "" {
		left += "=" + o.value
	}
	b.WriteString(left)
	b.WriteString(strings.Repeat(" ", max(34-len(left), 2)))
	b.WriteString(o.help)
	b.WriteString("\n")
}
