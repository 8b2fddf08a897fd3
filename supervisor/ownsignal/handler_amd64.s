#include "textflag.h"

// handler is entered from the kernel with the signal's number in DI and, as
// return address, the restorer. rt_sigreturn puts all registers back.
TEXT handler<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	LEAQ	·units(SB), SI
	LEAQ	(SI)(DI*8), SI
	MOVL	$1, AX // write
	MOVL	·wake(SB), DI
	MOVL	$8, DX
	SYSCALL
	RET

TEXT restorer<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVL	$15, AX // rt_sigreturn
	SYSCALL
	INT	$3

// func handlerPC() uintptr
TEXT ·handlerPC(SB), NOSPLIT, $0-8
	LEAQ	handler<>(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// func restorerPC() uintptr
TEXT ·restorerPC(SB), NOSPLIT, $0-8
	LEAQ	restorer<>(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
