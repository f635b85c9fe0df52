//! What loom has, and what it lacks: parking with a token, waits that end in time, descriptors to sleep on.
//!
//! Threads of a model are coroutines of one thread, and change places only inside of loom's own operations. So plain data of a
//! [`World`] needs no lock, as long as no such operation comes between two accesses that belong together.
//!
//! *Descriptors* are real ones, and so is epoll; asleep is who has found nothing ready. Whoever makes something ready says so with
//! [`ready::tell`], which wakes all of them to look again.
//!
//! *Time* stands still, until a model has it [pass](World::pass).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{LockResult, OnceLock, TryLockError, TryLockResult};
use std::time::{Duration, Instant};

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, fence};
use std::sync::atomic::Ordering;

use thread::Thread;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// What the threads of one execution of a model share with the system.
pub(crate) struct World {
    /// Orders what is written to descriptors before what is read from them, as the kernel does.
    order: AtomicUsize,
    /// Who sleeps on descriptors.
    asleep: RefCell<Vec<Thread>>,
    time: Cell<Duration>,
    /// Who wants to be woken at which time.
    alarms: RefCell<Vec<(Duration, Thread)>>,
    /// When the pool's timer fires, and its descriptor.
    timer: RefCell<Option<(Duration, OwnedFd)>>,
    /// Whoever sleeps on an epoll set is to end.
    is_over: Cell<bool>,
    threads: RefCell<Vec<(loom::thread::ThreadId, Thread)>>,
    detached: RefCell<Vec<loom::thread::JoinHandle<()>>>,
}

impl World {
    /// A new one, for a new execution.
    pub(crate) fn begin() -> Rc<Self> {
        let world = Rc::new(Self {
            order: AtomicUsize::new(0),
            asleep: RefCell::default(),
            time: Cell::default(),
            alarms: RefCell::default(),
            timer: RefCell::default(),
            is_over: Cell::default(),
            threads: RefCell::default(),
            detached: RefCell::default(),
        });
        WORLD.set(Some(Rc::clone(&world)));
        world
    }

    pub(crate) fn current() -> Rc<Self> {
        WORLD.with_borrow(|world| Rc::clone(world.as_ref().expect("a model has begun")))
    }

    /// Waits for the threads that nobody waits for, and forgets the world.
    pub(crate) fn end() {
        for thread in Self::current().detached.take() {
            thread.join().expect("it has not panicked");
        }
        drop(WORLD.take());
    }

    /// Whether [`over`](Self::over) has been said.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Whoever sleeps on an epoll set is to end.
    pub(crate) fn over(&self) {
        self.tell(|| self.is_over.set(true));
    }

    /// Lets time pass; wakes whom it wakes.
    pub(crate) fn pass(&self, time: Duration) {
        self.order.fetch_add(1, Ordering::AcqRel);
        let now = self.time.get() + time;
        self.time.set(now);
        let fires = self.timer.borrow_mut().take_if(|(due, _)| *due <= now);
        if let Some((_, timer)) = fires {
            let fired = self.tell(|| nix::unistd::write(timer, &1_u64.to_ne_bytes()));
            fired.expect("the counter is not full");
        }
        let mut woken = Vec::new();
        self.alarms.borrow_mut().retain(|(due, thread)| {
            let is_due = *due <= now;
            if is_due {
                woken.push(thread.clone());
            }
            !is_due
        });
        woken.iter().for_each(Thread::unpark);
    }

    /// How long until the timer fires, if it is armed.
    pub(crate) fn until_timer(&self) -> Option<Duration> {
        self.timer.borrow().as_ref().map(|(due, _)| due.saturating_sub(self.time.get()))
    }

    fn tell<T>(&self, write: impl FnOnce() -> T) -> T {
        self.order.fetch_add(1, Ordering::AcqRel);
        let written = write();
        let woken = self.asleep.take();
        woken.iter().for_each(Thread::unpark);
        written
    }

    /// Sleeps until `look` finds something, or until the deadline.
    fn sleep<T>(&self, deadline: Option<Duration>, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            self.order.fetch_add(1, Ordering::AcqRel);
            if let Some(found) = look() {
                return Some(found);
            }
            if deadline.is_some_and(|deadline| deadline <= self.time.get()) {
                return None;
            }
            let own = thread::current();
            self.asleep.borrow_mut().push(own.clone());
            self.alarm(deadline, &own);
            thread::park();
            self.asleep.borrow_mut().retain(|thread| thread.id() != own.id());
        }
    }

    fn alarm(&self, deadline: Option<Duration>, thread: &Thread) {
        if deadline.is_some() {
            // Time may have passed before.
            self.order.fetch_add(1, Ordering::AcqRel);
        }
        let mut alarms = self.alarms.borrow_mut();
        alarms.retain(|(_, known)| known.id() != thread.id());
        alarms.extend(deadline.map(|deadline| (deadline, thread.clone())));
    }
}

/// The time of the model, if there is one.
pub(crate) fn now() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    WORLD.with_borrow(|world| world.as_ref().map_or_else(Instant::now, |world| start + world.time.get()))
}

/// Accesses memory that a worker accesses, too: others may come before.
pub(crate) fn across<T>(access: impl FnOnce() -> T) -> T {
    World::current().order.fetch_add(1, Ordering::AcqRel);
    access()
}

/// As that of `std`, which knows its lock.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    guard: loom::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(data: T) -> Self {
        Self(loom::sync::Mutex::new(data))
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self.0.lock() {
            Ok(guard) => Ok(MutexGuard { mutex: self, guard }),
            Err(_) => unreachable!("loom poisons nothing"),
        }
    }

    pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Ok(MutexGuard { mutex: self, guard }),
            Err(_) => Err(TryLockError::WouldBlock),
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// As that of `std`.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    /// Who sleeps, and has not been notified.
    waiting: std::sync::Mutex<VecDeque<Thread>>,
}

/// Whether a wait ended because of its time.
#[derive(Debug)]
pub(crate) struct WaitTimeoutResult;

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        Ok(self.sleep(guard, None))
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let deadline = World::current().time.get() + timeout;
        Ok((self.sleep(guard, Some(deadline)), WaitTimeoutResult))
    }

    pub(crate) fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut guard) {
            guard = self.sleep(guard, None);
        }
        Ok(guard)
    }

    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let world = World::current();
        let deadline = world.time.get() + timeout;
        while condition(&mut guard) && world.time.get() < deadline {
            guard = self.sleep(guard, Some(deadline));
        }
        Ok((guard, WaitTimeoutResult))
    }

    fn sleep<'a, T>(&self, guard: MutexGuard<'a, T>, deadline: Option<Duration>) -> MutexGuard<'a, T> {
        let (mutex, own, world) = (guard.mutex, thread::current(), World::current());
        let waits = || self.waiting().iter().any(|thread| thread.id() == own.id());
        self.waiting().push_back(own.clone());
        world.alarm(deadline, &own);
        drop(guard);
        while waits() && deadline.is_none_or(|deadline| world.time.get() < deadline) {
            thread::park();
        }
        self.waiting().retain(|thread| thread.id() != own.id());
        world.alarm(None, &own);
        mutex.lock().unwrap_or_else(|_| unreachable!("loom poisons nothing"))
    }

    pub(crate) fn notify_one(&self) {
        let woken = self.waiting().pop_front();
        woken.iter().for_each(Thread::unpark);
    }

    pub(crate) fn notify_all(&self) {
        let woken = std::mem::take(&mut *self.waiting());
        woken.iter().for_each(Thread::unpark);
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Thread>> {
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub(crate) mod thread {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool as Plain, Ordering};
    use std::time::Duration;

    use loom::sync::atomic::AtomicBool;
    pub(crate) use loom::thread::yield_now;

    use super::World;

    /// Words of a stack; loom's are too small for the engine.
    const STACK: usize = 1 << 17;

    /// A thread that can be woken.
    #[derive(Debug, Clone)]
    pub(crate) struct Thread(Arc<Parker>);

    #[derive(Debug)]
    struct Parker {
        id: loom::thread::ThreadId,
        token: AtomicBool,
        /// It is nowhere else: loom wakes a thread out of whatever it sleeps in.
        is_parked: Plain,
        thread: loom::thread::Thread,
    }

    impl Thread {
        pub(crate) fn id(&self) -> loom::thread::ThreadId {
            self.0.id
        }

        pub(crate) fn unpark(&self) {
            // An exchange, as in `park`: loom knows no total order of stores.
            self.0.token.swap(true, Ordering::AcqRel);
            if self.0.is_parked.swap(false, Ordering::Relaxed) {
                self.0.thread.unpark();
            }
        }
    }

    pub(crate) fn current() -> Thread {
        let (thread, world) = (loom::thread::current(), World::current());
        let id = thread.id();
        let mut threads = world.threads.borrow_mut();
        if let Some((_, known)) = threads.iter().find(|(known, _)| *known == id) {
            return known.clone();
        }
        let token = AtomicBool::new(false);
        let own = Thread(Arc::new(Parker { id, token, is_parked: Plain::new(false), thread }));
        threads.push((id, own.clone()));
        own
    }

    pub(crate) fn park() {
        let own = current();
        while !own.0.token.swap(false, Ordering::AcqRel) {
            own.0.is_parked.store(true, Ordering::Relaxed);
            loom::thread::park();
        }
    }

    pub(crate) fn park_timeout(timeout: Duration) {
        let (own, world) = (current(), World::current());
        let deadline = world.time.get() + timeout;
        world.alarm(Some(deadline), &own);
        if world.time.get() < deadline {
            park();
        }
        world.alarm(None, &own);
    }

    /// A thread of a model.
    pub(crate) fn spawn<T: 'static>(run: impl FnOnce() -> T + Send + 'static) -> loom::thread::JoinHandle<T>
    where
        T: Send,
    {
        let run = || {
            // Its token is made before anybody can know it.
            current();
            run()
        };
        loom::thread::Builder::new().stack_size(STACK).spawn(run).expect("loom refuses nothing")
    }

    pub(crate) fn detach(_name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        World::current().detached.borrow_mut().push(spawn(run));
        Ok(())
    }
}

pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::fmt;
    use std::sync::{Arc, PoisonError};

    use super::{Condvar, Mutex};

    struct Queue<T> {
        items: Mutex<(VecDeque<T>, bool)>,
        changed: Condvar,
    }

    /// The one sender.
    pub(crate) struct Sender<T>(Arc<Queue<T>>);

    impl<T> fmt::Debug for Sender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Sender")
        }
    }

    pub(crate) struct Receiver<T>(Arc<Queue<T>>);

    /// Nobody receives.
    #[derive(Debug)]
    pub(crate) struct SendError<T>(T);

    impl<T> SendError<T> {
        pub(crate) fn into_inner(self) -> T {
            self.0
        }
    }

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let queue = Arc::new(Queue { items: Mutex::new((VecDeque::new(), true)), changed: Condvar::new() });
        (Sender(Arc::clone(&queue)), Receiver(queue))
    }

    impl<T> Sender<T> {
        /// The receiver of a model receives until this is dropped.
        pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
            self.0.items.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(item);
            self.0.changed.notify_one();
            Ok(())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.items.lock().unwrap_or_else(PoisonError::into_inner).1 = false;
            self.0.changed.notify_one();
        }
    }

    impl<T> Iterator for Receiver<T> {
        type Item = T;

        fn next(&mut self) -> Option<T> {
            let items = self.0.items.lock().unwrap_or_else(PoisonError::into_inner);
            let mut items = self.0.changed.wait_while(items, |(items, open)| items.is_empty() && *open);
            items.as_mut().map(|items| items.0.pop_front()).unwrap_or_default()
        }
    }
}

/// Descriptors that threads sleep on.
pub(crate) mod ready {
    use std::io;
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    use nix::poll::{PollFd, PollTimeout};
    use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};

    use super::World;

    /// Does something for which others may be asleep on a descriptor.
    pub(crate) fn tell<T>(write: impl FnOnce() -> T) -> T {
        World::current().tell(write)
    }

    /// Sleeps until one of the descriptors is ready.
    pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> nix::Result<libc::c_int> {
        let world = World::current();
        // None is -1.
        let after = u64::try_from(i32::from(timeout)).ok().map(Duration::from_millis);
        let deadline = after.map(|after| world.time.get() + after);
        let look = || Some(nix::poll::poll(fds, PollTimeout::ZERO)).filter(|ready| *ready != Ok(0));
        world.sleep(deadline, look).unwrap_or(Ok(0))
    }

    /// Sleeps until something in the epoll set is ready, or the world is over.
    pub(crate) fn wait(epoll: &Epoll, events: &mut [EpollEvent]) -> nix::Result<usize> {
        let world = World::current();
        let look = || {
            let ready = epoll.wait(events, EpollTimeout::ZERO);
            (ready != Ok(0) || world.is_over()).then_some(ready)
        };
        world.sleep(None, look).unwrap_or(Ok(0))
    }

    /// Arms the timer, which is an eventfd; `None` disarms it.
    pub(crate) fn arm_timer(timer: BorrowedFd<'_>, after: Option<Duration>) -> io::Result<()> {
        let world = World::current();
        let timer = timer.try_clone_to_owned()?;
        world.timer.replace(after.map(|after| (world.time.get() + after, timer)));
        Ok(())
    }
}
