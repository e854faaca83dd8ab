//! A program that the agent holds on to (`ptrace`) while a template is taken of it: where it stands, what is in its memory,
//! and system calls that it makes for the agent.
//!
//! Only ever a runtime's own program before it has seen anything of a submission.

use std::{fs::File, io, os::unix::fs::FileExt, ptr, time::Duration};

use libc::{c_int, c_long, c_uint, pid_t};

use crate::sys::{self, check};

/// How long the program may take from one stop to the next.
const PATIENCE: Duration = Duration::from_secs(5);

/// Below the stack pointer the C library's functions keep up to 128 bytes; what the agent asks for lies below that.
const BELOW_STACK: u64 = 4096;

/// The kernel's `PTRACE_GET_SYSCALL_INFO`, and what it says.
const GET_SYSCALL_INFO: c_uint = 0x420e;
const AT_ENTRY: u8 = 1;

/// `PTRACE_GET_RSEQ_CONFIGURATION`.
const GET_RSEQ: c_uint = 0x420f;

/// A program that was seized.
pub struct Tracee {
    hold: Hold,
    memory: File,
}

/// A system call that the program is about to make.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: c_long,
    pub arguments: [u64; 6],
}

/// A restartable sequence's registration.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Rseq {
    pub address: u64,
    pub size: u32,
    pub signature: u32,
    pub flags: u32,
    pad: u32,
}

/// The kernel's `ptrace_syscall_info`, as far as it is of an entry.
#[derive(Default)]
#[repr(C)]
struct Info {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    instruction: u64,
    stack: u64,
    number: u64,
    arguments: [u64; 6],
}

/// The hold on a process. Whoever holds one has to bury it: until then the init of its namespace waits for it, and does not end.
struct Hold {
    pid: pid_t,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // SAFETY: a signal touches no memory of ours. Where the end was seen already, nobody has this number.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // Stops on the way come first. The last answer is that there is no such child any more.
        while wait(self.pid).is_ok() {}
    }
}

impl Tracee {
    /// Takes hold of process `pid`, and then has `go_on` let it execute its program: it stands right after that.
    pub fn seize(pid: pid_t, go_on: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        let options =
            libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        let options = usize::try_from(options).unwrap_or(0);
        let end = sys::now() + PATIENCE;
        // Refused until the process has allowed it.
        while let Err(error) = request(libc::PTRACE_SEIZE, pid, 0, options) {
            if error.raw_os_error() != Some(libc::EPERM) || sys::now() > end {
                return Err(error);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        let hold = Hold { pid };
        go_on()?;
        let status = wait(pid)?;
        if status >> 8 != libc::SIGTRAP | (libc::PTRACE_EVENT_EXEC << 8) {
            return Err(unexpected(status));
        }
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        Ok(Self { hold, memory })
    }

    /// Its process id.
    pub fn pid(&self) -> pid_t {
        self.hold.pid
    }

    /// Runs it to its next system call, which it has not made then.
    pub fn next_call(&self) -> io::Result<Call> {
        loop {
            self.run_to_stop()?;
            let mut info = Info::default();
            let size = size_of_val(&info);
            request(GET_SYSCALL_INFO, self.pid(), size, (&raw mut info).addr())?;
            if info.op == AT_ENTRY {
                return Ok(Call {
                    number: c_long::try_from(info.number).unwrap_or(-1),
                    arguments: info.arguments,
                });
            }
        }
    }

    /// To the next beginning or end of a system call. A signal on the way is the end of it.
    fn run_to_stop(&self) -> io::Result<()> {
        request(libc::PTRACE_SYSCALL, self.pid(), 0, 0)?;
        let status = wait(self.pid())?;
        if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
            return Ok(());
        }
        Err(unexpected(status))
    }

    /// Its registers.
    pub fn registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: the struct is plain data.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        request(
            libc::PTRACE_GETREGS,
            self.pid(),
            0,
            (&raw mut registers).addr(),
        )?;
        Ok(registers)
    }

    /// Its registers of arithmetic.
    pub fn arithmetic(&self) -> io::Result<libc::user_fpregs_struct> {
        // SAFETY: the struct is plain data.
        let mut registers: libc::user_fpregs_struct = unsafe { std::mem::zeroed() };
        request(
            libc::PTRACE_GETFPREGS,
            self.pid(),
            0,
            (&raw mut registers).addr(),
        )?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        request(
            libc::PTRACE_SETREGS,
            self.pid(),
            0,
            ptr::from_ref(registers).addr(),
        )
        .map(drop)
    }

    /// Has it make system call `number` in the place of the one that it stands before, and puts it back there. Arguments that
    /// are [`Tracee::scratch`] or above are addresses of its memory.
    pub fn call(&self, number: c_long, arguments: [u64; 4]) -> io::Result<u64> {
        let before = self.registers()?;
        let mut registers = before;
        registers.orig_rax = number.cast_unsigned();
        registers.rax = number.cast_unsigned();
        [registers.rdi, registers.rsi, registers.rdx, registers.r10] = arguments;
        self.set_registers(&registers)?;
        self.run_to_stop()?;
        let result = self.registers()?.rax.cast_signed();
        // Back before the instruction, and into the call again.
        let mut again = before;
        again.rip -= SYSCALL_BYTES;
        again.rax = before.orig_rax;
        self.set_registers(&again)?;
        self.run_to_stop()?;
        if let Ok(error @ -4095..=-1) = i32::try_from(result) {
            return Err(io::Error::from_raw_os_error(-error));
        }
        Ok(result.cast_unsigned())
    }

    /// Memory of its stack that it does not use.
    pub fn scratch(&self) -> io::Result<u64> {
        Ok((self.registers()?.rsp - BELOW_STACK) & !0xf)
    }

    /// How its restartable sequences are registered.
    pub fn rseq(&self) -> io::Result<Rseq> {
        let mut rseq = Rseq::default();
        let size = size_of_val(&rseq);
        request(GET_RSEQ, self.pid(), size, (&raw mut rseq).addr())?;
        Ok(rseq)
    }

    /// What is in its memory.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.memory.read_exact_at(buffer, address)
    }

    /// A number in its memory.
    pub fn number(&self, address: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// A string in its memory that ends with a NUL.
    pub fn string(&self, address: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; libc::PATH_MAX.cast_unsigned() as usize];
        let read = self.memory.read_at(&mut bytes, address)?;
        bytes.truncate(read);
        let end = bytes.iter().position(|byte| *byte == 0);
        bytes.truncate(end.ok_or(io::ErrorKind::InvalidData)?);
        Ok(bytes)
    }

    /// Lets it go on by itself.
    pub fn let_go(self) -> io::Result<()> {
        request(libc::PTRACE_DETACH, self.pid(), 0, 0)?;
        std::mem::forget(self.hold);
        Ok(())
    }
}

/// The bytes of the instruction that makes a system call.
pub const SYSCALL_BYTES: u64 = 2;

fn request(request: c_uint, pid: pid_t, address: usize, data: usize) -> io::Result<c_long> {
    // SAFETY: where `data` is an address, the caller has something there that is as large as the request needs.
    let result = unsafe { libc::ptrace(request, pid, address, data) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Waits for the program's next stop, or its end.
fn wait(pid: pid_t) -> io::Result<c_int> {
    let end = sys::now() + PATIENCE;
    let mut looks = 0_u32;
    loop {
        let mut status = 0;
        // SAFETY: `status` is ours.
        let found =
            check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::WNOHANG) })?;
        if found == pid {
            return Ok(status);
        }
        if sys::now() > end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Mostly it is there at once: it has the other processor, or this one when it is given up.
        looks += 1;
        if looks > 100 {
            std::thread::sleep(Duration::from_micros(100));
        } else {
            std::thread::yield_now();
        }
    }
}

fn unexpected(status: c_int) -> io::Error {
    io::Error::other(format!("it stopped or ended unexpectedly ({status:#x})"))
}
