//! Numbers that name tasks, workers and their incarnations.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($number:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name($number);

        impl $name {
            #[doc(hidden)]
            pub const fn new(number: $number) -> Self {
                Self(number)
            }

            /// The number.
            pub const fn get(self) -> $number {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Names a task within its pool, in the order of submission.
    TaskId(u64)
}

id! {
    /// Names a worker's place in its pool; the process there may be replaced.
    WorkerId(u32)
}

id! {
    /// Tells the processes apart that have held one worker's place: each start has the next number.
    Generation(u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_their_number_and_order_by_it() {
        assert_eq!(format!("{:>4}|{}", TaskId::new(17), WorkerId::new(3)), "  17|3");
        assert_eq!(format!("{:?}", Generation::new(2)), "Generation(2)");
        assert!(TaskId::new(9) < TaskId::new(10));
        assert_eq!(TaskId::new(u64::MAX).get(), u64::MAX);
    }
}
