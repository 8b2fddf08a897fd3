//go:build slumber

#include "go_asm.h"
#include "textflag.h"

// func entry()
//
// RSP has the number of arguments; arguments and environment follow, each with a 0
// at its end. Below RSP nobody writes: no signal is handled here.
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVD	RSP, R19
	MOVD	(R19), R0
	ADD	R0<<3, R19, R1
	MOVD	16(R1), R2 // first of the environment
	CBZ	R2, awake
	MOVD	(R2), R3
	MOVD	$const_variable1, R4
	CMP	R4, R3
	BNE	awake
	MOVD	8(R2), R3
	MOVD	$const_variable2, R4
	CMP	R4, R3
	BEQ	asleep
awake:
	MOVD	RSP, R0
	SUB	$64, RSP // where a Go function keeps its arguments is its caller's
	MOVD	·begin(SB), R26
	MOVD	(R26), R1
	BL	(R1)
	MOVD	R0, RSP
	// the Go runtime leaves a signal alone that has no flags in its table
	MOVW	ZR, runtime·sigtable+const_flagsOfINT(SB)
	MOVW	ZR, runtime·sigtable+const_flagsOfQUIT(SB)
	MOVW	ZR, runtime·sigtable+const_flagsOfTERM(SB)
	MOVW	ZR, runtime·sigtable+const_flagsOfCHLD(SB)
	MOVD	$163, R8 // getrlimit
	MOVD	$9, R0 // RLIMIT_AS
	SUB	$64, R19, R1
	SVC
	CBNZ	R0, begin
	SUB	$64, R19, R1
	MOVD	(R1), R2
	MOVD	$const_leastSpace, R3
	CMP	R3, R2
	BLO	tooSmall
begin:
	B	_rt0_arm64_linux(SB)

tooSmall: // the Go runtime would end with a trace of its own
	MOVD	$64, R8 // write
	MOVD	$2, R0
	MOVD	·tooLittleSpace(SB), R1
	MOVD	·tooLittleSpace+8(SB), R2
	SVC
	MOVD	$94, R8 // exit_group
	MOVD	$1, R0
	SVC
	BRK

asleep: // three numbers: =EPOLL/SIGNALS/CAUGHT
	ADD	$16, R2, R2
	SUB	$64, R19, R4
	MOVD	$0, R0
	MOVD	$10, R5
digits:
	ADD	$1, R2, R2
	MOVBU	(R2), R3
	SUBS	$48, R3, R3 // '0'; what stands between numbers, and behind them, is less
	BLT	number
	MADD	R5, R3, R0, R0 // R0 = R3 + R0*R5
	B	digits
number:
	MOVW	R0, (R4)
	ADD	$4, R4, R4
	MOVD	$0, R0
	CMN	$1, R3 // '/'
	BEQ	digits
	SUB	$64, R19, R4
	MOVW	(R4), R20 // epoll
	MOVW	4(R4), R21 // signals
	MOVW	8(R4), R22 // caught

	MOVD	8(R19), R1 // the name of the process: that of its program
	MOVD	R1, R2
name:
	MOVBU	(R2), R3
	ADD	$1, R2, R2
	CMP	$47, R3 // '/'
	BNE	letter
	MOVD	R2, R1
letter:
	CBNZ	R3, name
	MOVD	$167, R8 // prctl
	MOVD	$15, R0 // PR_SET_NAME
	SVC

	MOVD	$21, R8 // epoll_ctl
	MOVD	R20, R0
	MOVD	$1, R1 // EPOLL_CTL_ADD
	MOVD	R21, R2
	SUB	$64, R19, R3 // struct epoll_event
	MOVD	$1, R4 // EPOLLIN
	MOVD	R4, (R3)
	MOVD	ZR, 8(R3)
	SVC
	CBNZ	R0, wake // no memory: what it cannot wait for it must not sleep through

wait:
	MOVD	$22, R8 // epoll_pwait
	MOVD	R20, R0
	SUB	$64, R19, R1 // one event, which nobody reads
	MOVD	$1, R2
	MOVD	$-1, R3
	MOVD	$0, R4
	MOVD	$8, R5
	SVC
	CMN	$4, R0 // EINTR: it was stopped and continued
	BEQ	wait

caught:
	MOVD	$63, R8 // read
	MOVD	R21, R0
	SUB	$192, R19, R1
	MOVD	$128, R2 // struct signalfd_siginfo
	SVC
	CMP	$128, R0
	BNE	wake
	SUB	$192, R19, R1
	MOVWU	(R1), R3 // its number
	LSL	$1, R3, R3
	MOVD	$const_fields, R4
	LSR	R3, R4, R4
	AND	$3, R4, R4
	LSL	$4, R4, R4
	MOVD	$1, R5
	LSL	R4, R5, R5
	MOVD	R5, (R1)
	MOVD	$64, R8 // write
	MOVD	R22, R0
	MOVD	$8, R2
	SVC
	B	caught

wake:
	SUB	$64, R19, R0
	MOVD	$const_path1, R3
	MOVD	R3, (R0)
	MOVD	$const_path2, R3
	MOVD	R3, 8(R0)
	MOVD	$221, R8 // execve
	ADD	$8, R19, R1
	MOVD	(R19), R2
	ADD	R2<<3, R19, R2
	ADD	$24, R2, R2 // the environment without its first
	SVC
	MOVD	$94, R8 // exit_group: a successor is needed
	MOVD	$127, R0
	SVC
	BRK

// func entryPC() uintptr
TEXT ·entryPC(SB), NOSPLIT, $0-8
	MOVD	$·entry(SB), R0
	MOVD	R0, ret+0(FP)
	RET
