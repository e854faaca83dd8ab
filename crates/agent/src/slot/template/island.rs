//! The island: memory at an address that neither the agent nor any program uses, in which a copy of the agent becomes the
//! program that a template was taken of. It holds a list of system calls and the few instructions that make them, one after
//! the other: everything else goes, then comes what the program had, and at last its registers.
//!
//! The instructions need no stack and no library. What fails is left in the handover and ends the process: the program
//! then has not run. When it runs, nothing of the agent is left in it but the page of these instructions.

use std::{
    io, ptr,
    sync::atomic::{AtomicI32, Ordering},
};

use libc::{c_int, c_long};

use crate::sys::check;

/// Where it begins: far from where the kernel puts programs, their heaps, libraries and stacks.
pub const START: u64 = 0x1000_0000_0000;

/// Where it ends.
pub const END: u64 = START + (2 << 20);

/// What is shared with the agent lies here, so that it can be written to while all else goes.
pub const HANDOVER: u64 = START + (1 << 20);

/// Where the kernel's own pages wait.
pub const PARKING: u64 = HANDOVER + (64 << 10);

/// The list, and the bytes that its calls read.
const LIST: u64 = START + PAGE;
const LIST_BYTES: u64 = HANDOVER - LIST;

const PAGE: u64 = PAGE_BYTES as u64;
const PAGE_BYTES: usize = 4096;

/// The end of addresses of programs.
const LAST: u64 = 0x7fff_ffff_f000;

/// `errno` as long as the list is not done.
pub const UNDONE: c_int = libc::EINPROGRESS;

/// A call, as the instructions read it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    number: u64,
    arguments: [u64; 6],
    /// What must come of it, or [`ANY`], [`TELLING`], [`FINAL`].
    result: u64,
}

/// Whatever is no error.
const ANY: u64 = u64::MAX;

/// Whatever is no error; and before it the handover is told that all went well. The agent hears of it by the call.
const TELLING: u64 = u64::MAX - 2;

/// The last one: the list is gone with it.
const FINAL: u64 = u64::MAX - 1;

/// The registers that the program goes on with, in the order of the instructions.
pub type Registers = [u64; 15];

core::arch::global_asm!(
    ".pushsection .text.envicutor_island,\"ax\",@progbits",
    ".balign 16",
    ".globl envicutor_island_begin",
    ".globl envicutor_island_registers",
    ".globl envicutor_island_end",
    "envicutor_island_begin:",
    // r14: the next call. r15: where an error goes.
    "2: mov rax, [r14]",
    "   mov rdi, [r14 + 8]",
    "   mov rsi, [r14 + 16]",
    "   mov rdx, [r14 + 24]",
    "   mov r10, [r14 + 32]",
    "   mov r8, [r14 + 40]",
    "   mov r9, [r14 + 48]",
    "   mov r12, [r14 + 56]",
    "   cmp r12, -3",
    "   jne 3f",
    "   mov dword ptr [r15], 0",
    "3: syscall",
    "   cmp r12, -2",
    "   je 6f",
    "   cmp rax, -4096",
    "   ja 4f",
    "   add r14, 64",
    "   cmp r12, -1",
    "   je 2b",
    "   cmp r12, -3",
    "   je 2b",
    "   cmp rax, r12",
    "   je 2b",
    "   mov rax, -5",
    "4: neg eax",
    "   mov dword ptr [r15], eax",
    "5: mov edi, 127",
    "   mov eax, 231",
    "   syscall",
    "   jmp 5b",
    "6: lea rcx, [rip + envicutor_island_registers]",
    "   mov rax, [rcx]",
    "   mov rdi, [rcx + 8]",
    "   mov rsi, [rcx + 16]",
    "   mov rdx, [rcx + 24]",
    "   mov r10, [rcx + 32]",
    "   mov r8, [rcx + 40]",
    "   mov r9, [rcx + 48]",
    "   mov rbx, [rcx + 56]",
    "   mov rbp, [rcx + 64]",
    "   mov r12, [rcx + 72]",
    "   mov r13, [rcx + 80]",
    "   mov r14, [rcx + 88]",
    "   mov r15, [rcx + 96]",
    "   mov rsp, [rcx + 104]",
    "   jmp qword ptr [rcx + 112]",
    ".balign 16",
    "envicutor_island_registers:",
    "   .skip 128",
    "envicutor_island_end:",
    ".popsection",
    // Where the C library of the agent has registered restartable sequences, if it does.
    ".weak __rseq_offset",
    ".weak __rseq_size",
    ".pushsection .data.rel.ro,\"aw\",@progbits",
    ".balign 8",
    ".globl envicutor_rseq",
    "envicutor_rseq: .quad __rseq_offset",
    "   .quad __rseq_size",
    ".popsection",
);

/// Where the C library says where they are; null where it does not.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rseq {
    offset: *const isize,
    size: *const u32,
}

// SAFETY: two addresses that nobody changes.
unsafe impl Sync for Rseq {}

unsafe extern "C" {
    static envicutor_island_begin: u8;
    static envicutor_island_registers: u8;
    static envicutor_island_end: u8;
    static envicutor_rseq: Rseq;
}

/// The signature of restartable sequences that the C library uses.
const RSEQ_SIGNATURE: u64 = 0x5305_3053;
const RSEQ_UNREGISTER: u64 = 1;

/// The calls, while they are put together.
pub struct List {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// Where entries refer to `bytes`: entry, argument, place in `bytes`.
    references: Vec<(usize, usize, usize)>,
    /// Where `bytes` refer to `bytes`: the place of the address, and what it is of.
    inner: Vec<(usize, usize)>,
}

/// An argument of a call: a number, or the address of these bytes.
pub enum Argument<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl From<u64> for Argument<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl<'a> From<&'a [u8]> for Argument<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl List {
    /// One that begins by clearing all memory but the island. `kernel_pages` are those that the kernel gave the agent, and
    /// wait in the parking then: their addresses and lengths.
    pub fn new(kernel_pages: &[(u64, u64)]) -> Self {
        let mut list = Self {
            entries: Vec::new(),
            bytes: Vec::new(),
            references: Vec::new(),
            inner: Vec::new(),
        };
        list.unregister_rseq();
        let mut place = PARKING;
        for &(start, length) in kernel_pages {
            list.move_memory(start, place, length);
            place += length;
        }
        list.call(libc::SYS_munmap, [0.into(), START.into()], 0);
        list.call(libc::SYS_munmap, [END.into(), (LAST - END).into()], 0);
        list
    }

    /// The thread that starts stages has them registered, and so has its copy: the kernel would write to memory that is gone.
    fn unregister_rseq(&mut self) {
        // SAFETY: two words of the agent's own; the C library's variables where it has them.
        let (offset, size) = unsafe {
            let Rseq { offset, size } = envicutor_rseq;
            if offset.is_null() || size.is_null() {
                return;
            }
            (*offset, *size)
        };
        if size == 0 {
            return;
        }
        self.entries.push(Entry {
            number: libc::SYS_rseq.cast_unsigned(),
            // Known where it runs: see `Island::at_thread`.
            arguments: [
                offset.cast_unsigned() as u64,
                32,
                RSEQ_UNREGISTER,
                RSEQ_SIGNATURE,
                0,
                0,
            ],
            result: 0,
        });
    }

    /// Adds a call of which `result` must come.
    pub fn call<const N: usize>(&mut self, number: c_long, arguments: [Argument; N], result: u64) {
        let mut entry = Entry {
            number: number.cast_unsigned(),
            arguments: [0; 6],
            result,
        };
        for (index, argument) in arguments.into_iter().enumerate() {
            match argument {
                Argument::Number(number) => entry.arguments[index] = number,
                Argument::Bytes(bytes) => {
                    let place = self.put(bytes);
                    self.references.push((self.entries.len(), index, place));
                }
            }
        }
        self.entries.push(entry);
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let place = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        place
    }

    /// Adds the call that tells the kernel where the parts of the program are, in the order of its `prctl_mm_map`, and what
    /// `auxiliary` vector it was given.
    pub fn describe(&mut self, parts: &[u64; 11], auxiliary: &[u8]) {
        const SET_MM: u64 = 35;
        const SET_MM_MAP: u64 = 14;
        const SAME_FILE: u32 = u32::MAX;
        let vector = self.put(auxiliary);
        let mut map: Vec<u8> = parts.iter().flat_map(|it| it.to_ne_bytes()).collect();
        self.inner.push((self.bytes.len() + map.len(), vector));
        map.extend(0_u64.to_ne_bytes());
        map.extend(u32::try_from(auxiliary.len()).unwrap_or(0).to_ne_bytes());
        map.extend(SAME_FILE.to_ne_bytes());
        let arguments = [
            SET_MM.into(),
            SET_MM_MAP.into(),
            map.as_slice().into(),
            (map.len() as u64).into(),
            0.into(),
        ];
        self.call(libc::SYS_prctl, arguments, 0);
    }

    /// Adds a call that must not fail.
    pub fn call_any<const N: usize>(&mut self, number: c_long, arguments: [Argument; N]) {
        self.call(number, arguments, ANY);
    }

    /// Moves memory, over whatever is there.
    pub fn move_memory(&mut self, from: u64, to: u64, length: u64) {
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED).cast_unsigned();
        let arguments = [from, length, length, flags.into(), to].map(Argument::from);
        self.call(libc::SYS_mremap, arguments, to);
    }

    /// Makes it the island's, ended by what closes the agent's descriptors, and leaves nothing but the instructions.
    pub fn settle(mut self, registers: &Registers) -> io::Result<Island> {
        let others = [3, u64::from(u32::MAX), 0].map(Argument::from);
        self.call(libc::SYS_close_range, others, TELLING);
        self.call(libc::SYS_munmap, [LIST.into(), (END - LIST).into()], FINAL);
        let entries = size_of::<Entry>() * self.entries.len();
        if (entries + self.bytes.len()) as u64 > LIST_BYTES {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        for (entry, argument, place) in self.references {
            self.entries[entry].arguments[argument] = LIST + (entries + place) as u64;
        }
        for (place, target) in self.inner {
            let address = LIST + (entries + target) as u64;
            self.bytes[place..place + 8].copy_from_slice(&address.to_ne_bytes());
        }
        Island::make(&self.entries, &self.bytes, registers)
    }
}

/// A list that lies in the island. Dropped, the place is free for the next.
pub struct Island {
    length: usize,
}

impl Island {
    fn make(entries: &[Entry], bytes: &[u8], registers: &Registers) -> io::Result<Self> {
        let begin = (&raw const envicutor_island_begin).addr();
        let code = (&raw const envicutor_island_end).addr() - begin;
        let place = (&raw const envicutor_island_registers).addr() - begin;
        let listed = size_of_val(entries) + bytes.len();
        let length = (PAGE_BYTES + listed).next_multiple_of(PAGE_BYTES);
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
        );
        let start = START as *mut libc::c_void;
        // SAFETY: a new mapping, where nothing is.
        let mapped = unsafe { libc::mmap(start, length, protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let island = Self { length };
        if mapped != start {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        // SAFETY: the mapping is ours and long enough for all of it; the instructions are as long as their labels say.
        unsafe {
            let page = start.cast::<u8>();
            ptr::copy_nonoverlapping(&raw const envicutor_island_begin, page, code);
            let values = registers.as_ptr().cast::<u8>();
            ptr::copy_nonoverlapping(values, page.add(place), size_of_val(registers));
            let list = LIST as *mut u8;
            let size = size_of_val(entries);
            ptr::copy_nonoverlapping(entries.as_ptr().cast::<u8>(), list, size);
            ptr::copy_nonoverlapping(bytes.as_ptr(), list.add(size), bytes.len());
        }
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: the first page is ours, and nobody writes to it any more.
        check(unsafe { libc::mprotect(start, PAGE_BYTES, protection) })?;
        Ok(island)
    }

    /// Makes this process, a copy of the agent with memory of its own, the program. By the thread that was copied. It is where it
    /// always is.
    #[expect(
        clippy::unused_self,
        reason = "without an island there is nothing to go by"
    )]
    pub fn go(&self, errno: &AtomicI32) -> ! {
        errno.store(UNDONE, Ordering::Release);
        let list = LIST as *mut Entry;
        // SAFETY: the list is this process's own copy; the first entry is there.
        let first = unsafe { &mut *list };
        if first.number == libc::SYS_rseq.cast_unsigned() {
            // What it holds is the distance from the thread's own block.
            let thread: u64;
            // SAFETY: the C library has the address of the block as its first word.
            unsafe { core::arch::asm!("mov {}, fs:[0]", out(reg) thread, options(nostack)) };
            first.arguments[0] = thread.wrapping_add(first.arguments[0]);
        }
        // SAFETY: the instructions at the beginning of the island were made for these two; nothing of this function is used
        // after it.
        unsafe {
            core::arch::asm!(
                "jmp {start}",
                start = in(reg) START,
                in("r14") LIST,
                in("r15") errno.as_ptr(),
                options(noreturn)
            )
        }
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody refers to it.
        unsafe { libc::munmap(START as *mut libc::c_void, self.length) };
    }
}
