use pool_core::task;

struct Image(Vec<u8>);

impl Image {
    #[task]
    fn size(&self) -> usize {
        self.0.len()
    }

    #[task]
    fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn main() {}
