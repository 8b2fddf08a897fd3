package journal

import "gracerun.io/supervisor/lifecycle"

// Names are the names of the files of one journal, in the order of their records.
var Names = [...]string{OldName, Name, ForkName}

// FindReply looks for the reply to a request in what was written at that instant or
// later, whoever has stepped the machine. A file that is not there, or cannot be read,
// has none.
func FindReply(dir int, request lifecycle.RequestID, since lifecycle.Instant) (reply lifecycle.Effect, found bool) {
	for _, name := range Names {
		text, err := readFile(dir, name)
		if err != nil {
			continue
		}
		j, err := Read(text)
		if err != nil {
			continue
		}
		for _, r := range j.Records {
			if r.At < since {
				continue
			}
			for _, text := range r.Effects {
				if e, err := lifecycle.ParseReply(text); err == nil && e.Request == request {
					return e, true
				}
			}
		}
	}
	return lifecycle.Effect{}, false
}
