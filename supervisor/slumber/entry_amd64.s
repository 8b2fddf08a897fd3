//go:build slumber

#include "go_asm.h"
#include "textflag.h"

// func entry()
//
// SP has the number of arguments; arguments and environment follow, each with a 0
// at its end. Below SP nobody writes: no signal is handled here.
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ	(SP), AX
	MOVQ	16(SP)(AX*8), SI // first of the environment
	TESTQ	SI, SI
	JEQ	awake
	MOVQ	$const_variable1, CX
	CMPQ	(SI), CX
	JNE	awake
	MOVQ	$const_variable2, CX
	CMPQ	8(SI), CX
	JEQ	asleep
awake:
	CLD
	XORPS	X15, X15 // as Go functions expect it
	MOVQ	SP, AX
	SUBQ	$64, SP // where a Go function keeps its arguments is its caller's
	MOVQ	·begin(SB), DX
	MOVQ	(DX), CX
	CALL	CX
	MOVQ	AX, SP
	// the Go runtime leaves a signal alone that has no flags in its table
	MOVL	$0, runtime·sigtable+const_flagsOfINT(SB)
	MOVL	$0, runtime·sigtable+const_flagsOfQUIT(SB)
	MOVL	$0, runtime·sigtable+const_flagsOfTERM(SB)
	MOVL	$0, runtime·sigtable+const_flagsOfCHLD(SB)
	MOVL	$97, AX // getrlimit
	MOVL	$9, DI // RLIMIT_AS
	LEAQ	-64(SP), SI
	SYSCALL
	TESTQ	AX, AX
	JNE	begin
	MOVQ	$const_leastSpace, AX
	CMPQ	-64(SP), AX
	JCS	tooSmall
begin:
	JMP	_rt0_amd64_linux(SB)

tooSmall: // the Go runtime would end with a trace of its own
	MOVL	$1, AX // write
	MOVL	$2, DI
	MOVQ	·tooLittleSpace(SB), SI
	MOVQ	·tooLittleSpace+8(SB), DX
	SYSCALL
	MOVL	$231, AX // exit_group
	MOVL	$1, DI
	SYSCALL
	INT	$3

asleep: // three numbers: =EPOLL/SIGNALS/CAUGHT
	ADDQ	$16, SI
	LEAQ	-64(SP), DI
	XORL	AX, AX
digits:
	INCQ	SI
	MOVBLZX	(SI), CX
	SUBL	$48, CX // '0'; what stands between numbers, and behind them, is less
	JCS	number
	LEAL	(AX)(AX*4), AX
	LEAL	(CX)(AX*2), AX
	JMP	digits
number:
	MOVL	AX, (DI)
	ADDQ	$4, DI
	XORL	AX, AX
	CMPL	CX, $-1 // '/'
	JEQ	digits
	MOVL	-64(SP), R12 // epoll
	MOVL	-60(SP), R13 // signals
	MOVL	-56(SP), R14 // caught

	MOVQ	8(SP), SI // the name of the process: that of its program
	MOVQ	SI, BX
name:
	MOVBLZX	(BX), CX
	INCQ	BX
	CMPL	CX, $47 // '/'
	JNE	letter
	MOVQ	BX, SI
letter:
	TESTL	CX, CX
	JNE	name
	MOVL	$157, AX // prctl
	MOVL	$15, DI // PR_SET_NAME
	SYSCALL

	MOVL	$233, AX // epoll_ctl
	MOVL	R12, DI
	MOVL	$1, SI // EPOLL_CTL_ADD
	MOVL	R13, DX
	LEAQ	-64(SP), R10 // struct epoll_event
	MOVQ	$1, (R10) // EPOLLIN
	MOVL	$0, 8(R10)
	SYSCALL
	TESTQ	AX, AX
	JNE	wake // no memory: what it cannot wait for it must not sleep through

wait:
	MOVL	$281, AX // epoll_pwait
	MOVL	R12, DI
	LEAQ	-64(SP), SI // one event, which nobody reads
	MOVL	$1, DX
	MOVQ	$-1, R10
	XORL	R8, R8
	MOVL	$8, R9
	SYSCALL
	CMPQ	AX, $-4 // EINTR: it was stopped and continued
	JEQ	wait

caught:
	XORL	AX, AX // read
	MOVL	R13, DI
	LEAQ	-192(SP), SI
	MOVL	$128, DX // struct signalfd_siginfo
	SYSCALL
	CMPQ	AX, $128
	JNE	wake
	MOVL	-192(SP), CX // its number
	ADDL	CX, CX
	MOVQ	$const_fields, AX
	SHRQ	CX, AX
	ANDL	$3, AX
	SHLL	$4, AX
	MOVL	AX, CX
	MOVL	$1, AX
	SHLQ	CX, AX
	MOVQ	AX, -192(SP)
	MOVL	$1, AX // write
	MOVL	R14, DI
	LEAQ	-192(SP), SI
	MOVL	$8, DX
	SYSCALL
	JMP	caught

wake:
	MOVQ	$const_path1, AX
	MOVQ	AX, -64(SP)
	MOVQ	$const_path2, AX
	MOVQ	AX, -56(SP)
	MOVL	$59, AX // execve
	LEAQ	-64(SP), DI
	LEAQ	8(SP), SI
	MOVQ	(SP), DX
	LEAQ	24(SP)(DX*8), DX // the environment without its first
	SYSCALL
	MOVL	$231, AX // exit_group: a successor is needed
	MOVL	$127, DI
	SYSCALL
	INT	$3

// func entryPC() uintptr
TEXT ·entryPC(SB), NOSPLIT, $0-8
	LEAQ	·entry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
