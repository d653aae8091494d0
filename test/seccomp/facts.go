// Prints what containerd's default seccomp profile says, for hack/seccomp-facts. Built in containerd's own module, and
// for the architecture that is asked about: the profile depends on it.
//
//	facts                 the rules: system call, arguments, answer, capabilities of the bounding set
//	facts numbers DIR     the numbers of system calls, of golang.org/x/sys in DIR: name, amd64, 386, arm64, arm
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A bounding set.
type set []string

func (s set) hasOneOf(capabilities []string) bool {
	return slices.ContainsFunc(capabilities, func(c string) bool { return slices.Contains(s, c) })
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "numbers" {
		numbers(os.Args[2])
	} else {
		rules()
	}
}

// None, all, each capability alone, and all but each.
func sets() []set {
	all := cap.Known()
	sets := []set{nil, all}
	for i, capability := range all {
		sets = append(sets, set{capability}, slices.Delete(slices.Clone(all), i, i+1))
	}
	return sets
}

// A line per system call, arguments and answer, with the capabilities on which it depends.
func rules() {
	sets := sets()
	with := map[string][]bool{}
	for i, set := range sets {
		capabilities := &specs.LinuxCapabilities{Bounding: set}
		profile := seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: capabilities}})
		lines := []string{"*\t-\t" + answer(profile.DefaultAction, profile.DefaultErrnoRet)}
		for _, rule := range profile.Syscalls {
			for _, name := range rule.Names {
				lines = append(lines, name+"\t"+arguments(rule.Args)+"\t"+answer(rule.Action, rule.ErrnoRet))
			}
		}
		for _, line := range lines {
			if with[line] == nil {
				with[line] = make([]bool, len(sets))
			}
			with[line][i] = true
		}
	}
	var lines []string
	for line, there := range with {
		lines = append(lines, line+"\t"+condition(sets, there))
	}
	slices.Sort(lines)
	fmt.Println(strings.Join(lines, "\n"))
}

// In words, with which sets a rule is there. What it says holds for each of the sets.
func condition(sets []set, there []bool) string {
	if !slices.Contains(there, false) {
		return "always"
	}
	// Those that decide alone.
	var capabilities []string
	for i, set := range sets {
		if len(set) == 1 && there[i] != there[0] {
			capabilities = append(capabilities, set...)
		}
	}
	for i, set := range sets {
		if set.hasOneOf(capabilities) == (there[i] == there[0]) {
			fail("a rule depends on capabilities in a way that has no word yet")
		}
	}
	word := "with "
	if there[0] {
		word = "without "
	}
	return word + strings.ReplaceAll(strings.Join(capabilities, " "), "CAP_", "")
}

func arguments(args []specs.LinuxSeccompArg) string {
	if len(args) == 0 {
		return "-"
	}
	var words []string
	for _, arg := range args {
		op := strings.TrimPrefix(string(arg.Op), "SCMP_CMP_")
		words = append(words, fmt.Sprintf("%d %s %#x %#x", arg.Index, op, arg.Value, arg.ValueTwo))
	}
	return strings.Join(words, ", ")
}

func answer(action specs.LinuxSeccompAction, errno *uint) string {
	switch action {
	case specs.ActAllow:
		return "ALLOW"
	case specs.ActErrno:
		if errno == nil {
			// OCI runtime-spec, config-linux.md, "Seccomp": the default is EPERM.
			return "EPERM"
		}
		return unix.ErrnoName(unix.Errno(*errno))
	default:
		return string(action)
	}
}

func numbers(dir string) {
	architectures := []string{"amd64", "386", "arm64", "arm"}
	of := map[string]map[string]string{}
	constant := regexp.MustCompile(`^\s+SYS_(\w+)\s+= (\d+)`)
	for _, arch := range architectures {
		file, err := os.Open(filepath.Join(dir, "unix", "zsysnum_linux_"+arch+".go"))
		if err != nil {
			fail(err.Error())
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if found := constant.FindStringSubmatch(lines.Text()); found != nil {
				name := strings.ToLower(found[1])
				if name == "syscall_mask" {
					// Of the header of arm, and no call.
					continue
				}
				if of[name] == nil {
					of[name] = map[string]string{}
				}
				of[name][arch] = found[2]
			}
		}
	}
	var lines []string
	for name, numbers := range of {
		line := name
		for _, arch := range architectures {
			number, known := numbers[arch]
			if !known {
				number = "-"
			}
			line += "\t" + number
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	fmt.Println(strings.Join(lines, "\n"))
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
